"""What a follower says: lines that stay, in the number of what they count."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from deltalab.dispatch.progress import Followed, Progress
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
