"""Where metrics are mirrored. The journal in the run directory is the truth; MLflow is its mirror."""

import math
from dataclasses import dataclass

from deltalab.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class TrackingSpec:
    """The MLflow mirror.

    Attributes:
        mlflow: mirror to MLflow or keep the journals alone.
        uri: tracking URI; null takes ``MLFLOW_TRACKING_URI``, else SQLite inside the runs folder.
        flush_seconds: seconds between batches sent to MLflow.
    """

    mlflow: bool = True
    uri: str | None = None
    flush_seconds: float = 5.0

    def __post_init__(self) -> None:
        if not 0.1 <= self.flush_seconds < math.inf:
            raise ConfigError("tracking.flush_seconds", self.flush_seconds, "a number from 0.1")
