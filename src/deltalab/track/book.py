"""What of a study is in MLflow already: RUNS/studies/STUDY/mlflow.json, kept by the mirror. No mlflow."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from deltalab.track.files import write_atomic

FILE = "mlflow.json"


@dataclass
class Cursor:
    """How much of one trial is in MLflow.

    Attributes:
        run_id: MLflow's run.
        offset: bytes of the journal that were sent.
        steps: metric → largest step sent; steps that a resume logs again are not sent twice.
        state: last state sent.
        described: parameters, tags and config are there.
        values: metric of the study → newest value sent.
        evaluations: suite → MLflow's run of it, nested in the trial's.
    """

    run_id: str
    offset: int = 0
    described: bool = False
    steps: dict[str, int] = field(default_factory=dict)
    state: str = ""
    values: dict[str, float] = field(default_factory=dict)
    evaluations: dict[str, str] = field(default_factory=dict)


@dataclass
class Book:
    """Where a study's runs are and how far each trial was sent.

    Attributes:
        uri: of the server or database.
        experiment_id: the study's experiment.
        parent: the study's own run.
        trials: trial id → cursor.
        told: digest of the description and the saved views that the experiment has.
        summary: metric of the parent run → step and value sent.
    """

    uri: str
    experiment_id: str
    parent: str
    trials: dict[str, Cursor] = field(default_factory=dict)
    told: str = ""
    summary: dict[str, tuple[int, float]] = field(default_factory=dict)


def read_book(folder: Path) -> Book | None:
    """The book of a study's folder; None where nothing was sent yet."""
    path = folder / FILE
    if not path.exists():
        return None
    plain = json.loads(path.read_text())
    cursors = {trial: Cursor(**cursor) for trial, cursor in plain.pop("trials").items()}
    summary = {name: tuple(sent) for name, sent in plain.pop("summary", {}).items()}
    return Book(**plain, trials=cursors, summary=summary)


def write_book(folder: Path, book: Book) -> None:
    """Keep it."""
    write_atomic(folder / FILE, json.dumps(asdict(book), indent=1))
