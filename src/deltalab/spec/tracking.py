"""Where metrics are mirrored. The journal in the run directory is the truth; MLflow is its mirror."""

import math
import re
from dataclasses import dataclass
from importlib.metadata import entry_points

from deltalab.errors import ConfigError
from deltalab.wording import without_password

SERVERS = "http://HOST, https://HOST, sqlite:///FILE, postgresql://…, mysql://…, mssql://… or databricks"
URIS = r"https?://[^/].*|sqlite(\+\w+)?:///.+|(postgresql|mysql|mssql)(\+\w+)?://.+|databricks(://.*)?"
"""What MLflow keeps runs in. Folders, which it takes too, it no longer maintains, and refuses since version 3.17."""


@dataclass(frozen=True, kw_only=True)
class TrackingSpec:
    """The MLflow mirror.

    Attributes:
        mlflow: mirror to MLflow or keep the journals alone.
        uri: tracking URI; null takes ``MLFLOW_TRACKING_URI``, else SQLite inside the runs folder.
        artifacts: where files of a new MLflow experiment go; null takes what the server says, beside a database the
            runs folder.
        flush_seconds: seconds between batches sent to MLflow.
    """

    mlflow: bool = True
    uri: str | None = None
    artifacts: str | None = None
    flush_seconds: float = 5.0

    def __post_init__(self) -> None:
        refuse_uri("tracking.uri", self.uri)
        if self.artifacts is not None and not re.fullmatch(r"(/|\w[\w+.-]*:).+", self.artifacts):
            raise ConfigError("tracking.artifacts", self.artifacts, "an absolute path or a URI, s3://BUCKET/FOLDER")
        if not 0.1 <= self.flush_seconds < math.inf:
            raise ConfigError("tracking.flush_seconds", self.flush_seconds, "a number from 0.1")


def refuse_uri(key: str, uri: str | None) -> None:
    """Let pass what MLflow, or an installed plugin of its, takes for a tracking URI, and None.

    Args:
        key: where the URI was given.
        uri: the URI.

    Raises:
        ConfigError: it is none.
    """
    if not uri or re.fullmatch(URIS, uri):
        return
    plugins = entry_points(group="mlflow.tracking_store").names
    if uri.partition(":")[0] not in plugins:
        raise ConfigError(key, without_password(uri), SERVERS)
