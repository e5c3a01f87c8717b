"""What ``deltalab doctor`` finds: a verdict, what is there, and how to mend it; and asking programs that may hang."""

import os
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from importlib.metadata import PackageNotFoundError, version

TOOL_SECONDS = 4.0
"""How long a program may take to answer."""
GIB = 2**30
INSTALL = "make install, or pip install -c constraints.txt -e . in this environment"


class Verdict(Enum):
    """note: absent or worth knowing, trials run without it; broken: the local pool cannot do its work."""

    ok = "ok"
    note = "note"
    broken = "broken"


MARKS = {Verdict.ok: ("✓", "green"), Verdict.note: ("•", "yellow"), Verdict.broken: ("✗", "bold red")}


@dataclass(frozen=True)
class Check:
    """One finding.

    Attributes:
        name: what was looked at.
        verdict: see ``Verdict``.
        found: what is there, in words.
        mend: how to mend it, or what to do about it; "" where nothing need be done.
    """

    name: str
    verdict: Verdict
    found: str
    mend: str = ""


Groups = dict[str, Callable[[], list[Check]]]
"""Name → checks that run one after another in a thread of their own, in the order they are shown."""


@dataclass(frozen=True)
class Answer:
    """What a program printed, in one line what went wrong ("" when nothing did), and whether that was the time."""

    out: str = ""
    error: str = ""
    late: bool = False


def ask(*command: str, seconds: float | None = None, env: dict[str, str] | None = None) -> Answer:
    """Run a program, for ``seconds`` (``TOOL_SECONDS`` unless given) at most."""
    seconds = seconds or TOOL_SECONDS
    inherited = {**os.environ, **(env or {})}
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=seconds, env=inherited, check=False
        )
    except FileNotFoundError:
        return Answer(error=f"no {command[0]} in PATH")
    except subprocess.TimeoutExpired as late:
        return Answer((late.stdout or b"").decode(errors="replace"), f"no answer in {seconds:g} s", late=True)
    except OSError as error:
        return Answer(error=str(error))
    out, said = (text.decode(errors="replace").strip() for text in (done.stdout, done.stderr))
    last = next(iter((said or out).splitlines()[-1:]), f"exit code {done.returncode}")
    return Answer(out, last if done.returncode else "")


def version_of(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
