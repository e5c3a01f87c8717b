"""Where a mirror may be: what MLflow takes passes, what it does not is refused with what is allowed."""

from importlib.metadata import EntryPoint, EntryPoints

import pytest

from deltalab import cli
from deltalab.command import run_app
from deltalab.errors import ConfigError
from deltalab.spec import load, tracking
from deltalab.spec.tracking import TrackingSpec


@pytest.mark.parametrize(
    "uri",
    [
        None, "", "http://127.0.0.1:5000", "https://me:secret@mlflow.example.org/team", "sqlite:////tmp/store.db",
        "sqlite:///store.db", "postgresql+psycopg2://host/base", "databricks", "databricks://profile",
    ],
)  # fmt: skip
def test_what_mlflow_takes_passes(uri: str | None) -> None:
    assert TrackingSpec(uri=uri).uri == uri


@pytest.mark.parametrize(
    "uri", ["mlruns", "/data/mlruns", "file:///data/mlruns", "http:/host", "http://", "sqlite://store.db", "ftp://host"]
)
def test_what_it_does_not_take_is_refused_with_what_is_allowed(uri: str) -> None:
    with pytest.raises(ConfigError) as refused:
        TrackingSpec(uri=uri)
    assert str(refused.value).startswith(f"tracking.uri={uri}: allowed is http://HOST, https://HOST, sqlite:///FILE, ")


def test_a_password_is_not_repeated() -> None:
    with pytest.raises(ConfigError) as refused:
        TrackingSpec(uri="htp://me:secret@host")
    assert str(refused.value).startswith("tracking.uri=htp://me:***@host: ")


def test_the_scheme_of_a_plugin_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    def installed(group: str) -> EntryPoints:
        return EntryPoints([EntryPoint("arn", "plugin:Store", group)])

    monkeypatch.setattr(tracking, "entry_points", installed)
    assert TrackingSpec(uri="arn:aws:sagemaker:us-east-1:1:server/x").uri
    with pytest.raises(ConfigError):
        TrackingSpec(uri="azureml://x")


@pytest.mark.parametrize("command", [("sync", "ask"), ("doctor",)], ids=" ".join)
def test_a_command_says_so_of_its_own_option(command: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run_app(cli.app, "deltalab", [*command, "--uri", "nonsense"])
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("deltalab: --uri=nonsense: allowed is http://HOST")


def test_a_launch_says_so_of_its_own_key() -> None:
    with pytest.raises(ConfigError, match=r"^tracking.uri=nonsense: allowed is http://HOST"):
        load.launch_spec(load.compose(["tracking.uri=nonsense"]))


@pytest.mark.parametrize("where", ["/data/kept", "s3://bucket/lab", "mlflow-artifacts:/lab", "file:///data"])
def test_artifacts_go_to_a_path_or_a_uri(where: str) -> None:
    assert TrackingSpec(artifacts=where).artifacts == where


def test_artifacts_are_not_put_beside_whoever_launches() -> None:
    with pytest.raises(ConfigError, match=r"^tracking.artifacts=kept: allowed is an absolute path or a URI"):
        TrackingSpec(artifacts="kept")
