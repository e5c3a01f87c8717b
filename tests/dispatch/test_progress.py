"""What a follower says: lines that stay, in the number of what they count."""

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from deltalab.dispatch.progress import Followed, Progress
from deltalab.track import journal
from deltalab.track.journal import Journal, State
from deltalab.wording import many


@pytest.mark.parametrize(
    ("details", "said"),
    [
        ({}, "✗ variant=kda seed=0: cancelled; log "),
        ({"error": "by hand"}, "✗ variant=kda seed=0: cancelled: by hand; log "),
    ],
)
def test_a_trial_that_ended_without_a_reason_says_none(tmp_path: Path, details: dict[str, str], said: str) -> None:
    console = Console(file=io.StringIO(), width=200)
    progress = Progress(console, [Followed("abc", "variant=kda seed=0", tmp_path)])
    Journal(tmp_path).state(State.cancelled, **details)
    progress.show()
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert lines == [f"{said}{tmp_path / 'log.txt'}", "1 of 1 trial done, 0 running, 0 queued, about 0 s to go"]


def test_what_is_counted_is_in_its_number() -> None:
    assert [many(count, "trial") for count in (0, 1, 1000)] == ["0 trials", "1 trial", "1,000 trials"]
    assert [many(count, "cell", "waits", "wait") for count in (1, 2)] == ["1 cell waits", "2 cells wait"]


class Watched:
    """Trials followed by a display whose journals a test writes, at times of its own."""

    def __init__(self, folder: Path, trials: int, coming: int = 0) -> None:
        self.folder, self.console = folder, Console(file=io.StringIO(), width=200)
        self.progress = Progress(self.console, map(self.followed, range(trials)), coming)

    def followed(self, number: int) -> Followed:
        return Followed(str(number), f"trial {number}", self.folder / str(number))

    def write(self, number: int, *lines: dict[str, object]) -> None:
        (self.folder / str(number)).mkdir(exist_ok=True)
        with (self.folder / str(number) / journal.FILE).open("a") as file:
            file.writelines(json.dumps(line) + "\n" for line in lines)

    def begin(self, number: int) -> None:
        self.write(number, {"t": 0.0, "event": "state", "state": "running", "steps": 10})

    def log(self, number: int, t: float, step: int, **values: float) -> None:
        self.write(
            number, {"t": t, "event": "metrics", "step": step, "values": {f"train/{k}": v for k, v in values.items()}}
        )

    def complete(self, number: int, t: float) -> None:
        self.write(number, {"t": t, "event": "state", "state": "completed"})

    def summary(self) -> str:
        self.progress.show()
        return self.progress.summary()


def test_time_to_go_is_unsaid_until_a_trial_knows_its_own(tmp_path: Path) -> None:
    watched = Watched(tmp_path, trials=8)
    for number in (0, 1):
        watched.begin(number)
        watched.log(number, 60.0, 1, loss=0.7)  # a minute for the first step, and a tenth of each trial is done
    assert watched.summary() == "0 of 8 trials done, 2 running, 6 queued"
    watched.log(0, 62.0, 2, loss=0.7, seconds_to_go=16.0)
    # 62 + 16 s a trial, two at a time; 8 less 0.2 and 0.1 trials
    assert watched.summary() == "0 of 8 trials done, 2 running, 6 queued, about 5 min 00 s to go"


def test_where_none_waits_the_slowest_running_trial_says_the_time_to_go(tmp_path: Path) -> None:
    watched = Watched(tmp_path, trials=3)
    watched.complete(0, 1.0)
    for number, seconds in ((1, 30.0), (2, 90.0)):
        watched.begin(number)
        watched.log(number, 2.0, 2, seconds_to_go=seconds)
    assert watched.summary() == "1 of 3 trials done, 2 running, 0 queued, about 1 min 30 s to go"


def test_trials_to_come_are_counted_before_they_join(tmp_path: Path) -> None:
    watched = Watched(tmp_path, trials=2, coming=4)
    assert watched.summary() == "0 of 6 trials done, 0 running, 2 queued, 4 waiting for tuning"
    watched.complete(0, 1.0)
    watched.complete(2, 1.0)  # by an earlier launch
    watched.progress.show()
    watched.progress.add([watched.followed(2), watched.followed(3)], coming=2)
    assert watched.summary().startswith("2 of 6 trials done, 0 running, 2 queued, 2 waiting for tuning")
    assert "trial 2" not in watched.console.file.getvalue(), "it did not end under this launch"  # type: ignore[attr-defined]
