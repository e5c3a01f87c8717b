"""A real PostgreSQL and a real MLflow server on this machine, brought up in a folder and ended with the test."""

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

DEBIAN = "/usr/lib/postgresql"
"""Where Debian's packages put PostgreSQL's programs."""
SECONDS = 180
"""Patience with a machine that does much else."""


def postgres_program(name: str) -> str | None:
    """Path of one of PostgreSQL's programs; the newest version's where several are installed."""
    installed = sorted(Path(DEBIAN).glob(f"*/bin/{name}"), key=lambda path: int(path.parts[-3]))
    return shutil.which(name) or (str(installed[-1]) if installed else None)


def install_postgres() -> None:
    """Debian's package, on its own: no cluster is made and no service started."""
    quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    settings = Path("/etc/postgresql-common")
    settings.mkdir(exist_ok=True)
    (settings / "createcluster.conf").write_text("create_main_cluster = false\nstart_conf = manual\n")
    for command in (["update"], ["install", "-y", "--no-install-recommends", "postgresql"]):
        subprocess.run(["apt-get", "-qq", *command], check=True, env=quiet, stdout=subprocess.DEVNULL)


def unavailable() -> str:
    """Why no PostgreSQL can be brought up here, or ""; with SERVERS_INSTALL root installs it."""
    if postgres_program("initdb"):
        return ""
    if os.environ.get("SERVERS_INSTALL") and os.geteuid() == 0 and shutil.which("apt-get"):
        install_postgres()
        return ""
    return "PostgreSQL is not installed; make test-servers installs it (Debian, root)"


def free_port() -> int:
    """A port of this machine that nobody has at present."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def until(holds: Callable[[], bool], what: str) -> None:
    """Wait for a condition."""
    end = time.monotonic() + SECONDS
    while not holds():
        assert time.monotonic() < end, f"waited in vain: {what}"
        time.sleep(0.1)


@contextlib.contextmanager
def postgres(folder: Path) -> Iterator[str]:
    """A fresh PostgreSQL; yields its URI. It refuses to be root: root gives it another user's rights."""
    folder.mkdir(mode=0o755)
    user = "nobody" if os.geteuid() == 0 else pwd.getpwuid(os.getuid()).pw_name
    data, port = folder / "data", free_port()
    data.mkdir()
    shutil.chown(data, user)
    initdb, server = postgres_program("initdb"), postgres_program("postgres")
    assert initdb
    assert server
    made = [initdb, "-D", str(data), "-U", "lab", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"]
    subprocess.run(made, user=user, cwd="/", check=True, stdout=subprocess.DEVNULL)
    settings = {"port": port, "listen_addresses": "127.0.0.1", "unix_socket_directories": "", "fsync": "off"}
    command = [server, "-D", str(data), *(word for k, v in settings.items() for word in ("-c", f"{k}={v}"))]
    with (folder / "log").open("wb") as log, subprocess.Popen(command, user=user, cwd="/", stderr=log) as process:
        try:
            until(lambda: listens(port), f"PostgreSQL, see {folder / 'log'}")
            yield f"postgresql://lab@127.0.0.1:{port}/postgres"
        finally:
            process.send_signal(signal.SIGQUIT)  # at once, clients or not


class TrackingServer:
    """``mlflow server`` over a database, at one address through crashes and restarts.

    Args:
        folder: for its artifacts and its log.
        store: URI of the database.
    """

    def __init__(self, folder: Path, store: str) -> None:
        self.folder, self.store, self.port = folder, store, free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self.artifacts = folder / "kept"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Bring it up; it answers when this returns."""
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--workers", "2", "--uvicorn-opts", "--no-access-log"]
        command += ["--backend-store-uri", self.store, "--artifacts-destination", self.artifacts.as_uri()]
        quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
        with (self.folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                command, env={**os.environ, **quiet}, stdout=log, stderr=log, start_new_session=True
            )
        until(self.answers, f"the MLflow server, see {self.folder / 'server.log'}")

    def kill(self) -> None:
        """As a machine that loses its power."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def answers(self) -> bool:
        """Whether it is up."""
        try:
            with urllib.request.urlopen(f"{self.uri}/health", timeout=2) as answer:
                return answer.status == 200
        except OSError:
            return False


def listens(port: int) -> bool:
    """Whether someone answers at a port."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False
