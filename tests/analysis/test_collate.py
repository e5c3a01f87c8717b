"""One tidy table of a study: at the end, at an equal budget, from the journals and from MLflow alike."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis import notes
from analysis.budget import parse_budget
from analysis.collate import Results, collate
from analysis.trial_sources import Source
from deltalab.errors import UsageError
from deltalab.study import ledger
from deltalab.track.connection import MirrorFailed
from deltalab.track.journal import Journal, State
from deltalab.track.mlflow import Mirror
from tests.analysis.studies import ACCURACY, LOSS, Levels, Made, Outcome, falling, make_study

TWO = {"variant": ["a", "b"]}


def study(runs: Path, broken: Callable[[Levels, int], State] = lambda *_: State.completed) -> Made:
    """Loss falls by seed, and twice as fast in b; 100 steps, a point every 10."""

    def outcome(levels: Levels, seed: int) -> Outcome:
        state = broken(levels, seed)
        steps = 100 if state is State.completed else 60
        curve = {step: (2 - (levels["variant"] == "b")) * (1 + seed) / step for step in range(10, steps + 1, 10)}
        ended = {ACCURACY: 0.5 + seed / 10, LOSS: 0.4}
        return Outcome(state=state, curve=curve, values=ended if state is State.completed else {}, step=steps)

    return make_study(runs, TWO, outcome)


def at(made: Made, text: str, metrics: list[str]) -> Results:
    return collate(made.runs, made.name, metrics, budget=parse_budget(text))


def test_at_an_equal_step(tmp_path: Path):
    results = at(study(tmp_path), "step=55", ["train/loss"])
    assert results.values("train/loss") == {"variant=a": {0: 2 / 50, 1: 4 / 50, 2: 6 / 50},
                                            "variant=b": {0: 1 / 50, 1: 2 / 50, 2: 3 / 50}}  # fmt: skip
    assert results.last_steps("train/loss")["variant=a"] == {0: 50, 1: 50, 2: 50}
    assert int(np.count_nonzero(results.curves["compared"])) == len(results.trials)


def test_equal_tokens_are_steps_times_the_batch(tmp_path: Path):
    made = study(tmp_path)
    trial = next(iter(made.record.cells[0].trials.values()))
    spec = ledger.load_spec(ledger.trial_dir(tmp_path, trial))
    per_step = spec.train.batch_size * spec.data.train_length
    tokens, steps = (at(made, text, ["train/loss"]) for text in (f"tokens={30 * per_step}", "step=30"))
    assert tokens.values("train/loss") == steps.values("train/loss")
    assert list(tokens.trials["tokens"]) == [100 * per_step] * 6


def test_a_trial_that_did_not_come_so_far_is_not_compared_and_one_that_failed_later_is(tmp_path: Path):
    made = study(tmp_path, lambda levels, seed: State.diverged if seed == 1 else State.completed)
    early, late = (at(made, text, ["train/loss"]) for text in ("step=60", "step=61"))
    assert list(early.values("train/loss")["variant=a"]) == [0, 1, 2]
    assert list(late.values("train/loss")["variant=a"]) == [0, 2]
    assert late.compared(late.cells[0]) == [0, 2]


def test_seeds_that_ended_after_the_budget_and_unequal_tokens_are_footnoted(tmp_path: Path):
    made = study(tmp_path, lambda levels, seed: State.diverged if seed == 1 else State.completed)
    early = at(made, "step=60", ["train/loss"])
    assert notes.ended_later(early, early.cells[0]) == "after step 60: seed 1 diverged"
    assert notes.missing_seeds(early, early.cells[0]) == notes.unequal_tokens(early, early.cells[0]) == ""
    results = collate(made.runs, made.name)
    longer = results.trials["seed"].eq(0) & results.trials["cell"].eq("variant=b")
    per_step = int(results.trials.loc[0, "tokens"]) // 100  # pyright: ignore[reportArgumentType]
    results.trials.loc[longer, "tokens"] = 200 * per_step
    assert notes.unequal_tokens(results, results.cells[0]) == ""
    said = f"seed 0 trained on {200 * per_step:,} tokens; most trials on {100 * per_step:,}"
    assert notes.unequal_tokens(results, results.cells[1]) == said


def test_equal_running_time(tmp_path: Path):
    made = study(tmp_path)
    journals = [ledger.trial_dir(tmp_path, trial) / "journal.jsonl" for cell in made.record.cells
                for trial in cell.trials.values()]  # fmt: skip
    for path in journals:  # a line a second, so that 10 steps take a second
        lines = [line.split(",", 1)[1] for line in path.read_text().splitlines()]
        path.write_text("".join(f'{{"t":{1000.0 + place},{line}\n' for place, line in enumerate(lines)))
    results = at(made, "seconds=4.5", ["train/loss"])
    assert results.last_steps("train/loss")["variant=b"] == {0: 40, 1: 40, 2: 40}
    assert not at(made, "seconds=60", ["train/loss"]).values("train/loss")["variant=b"]


@pytest.mark.parametrize("text", ["500", "step=", "step=-1", "step=nan", "epochs=3", "step=inf"])
def test_a_budget_that_is_none_is_one_line(text: str):
    with pytest.raises(UsageError, match=r"--at .*: allowed is step=N, tokens=N or seconds=N"):
        parse_budget(text)


@pytest.mark.slow
def test_mlflow_and_the_journals_say_the_same(tmp_path: Path):
    def outcome(levels: Levels, seed: int) -> Outcome:
        state = State.diverged if (levels["variant"], seed) == ("b", 1) else State.completed
        odd = {0: math.nan, 1: math.inf, 2: 0.3}[seed]
        return Outcome(values={ACCURACY: 0.5 + seed, LOSS: odd}, state=state, curve=falling(1.0, 0.2))

    made = make_study(tmp_path, TWO, outcome)
    resumed = ledger.trial_dir(tmp_path, made.record.cells[0].trials[2])
    again = Journal(resumed)
    again.state(State.running, steps=120)
    for step in (90, 100, 110, 120):  # the first two once more, with the values they had
        again.metrics(step, {"train/loss": falling(1.0, 0.2).get(step, 0.1)})
    again.state(State.completed)
    with pytest.raises(MirrorFailed, match="deltalab sync truth"):
        collate(tmp_path, made.name, source=Source.mlflow)
    Mirror(tmp_path, made.name).sync()
    for budget in (None, parse_budget("step=95"), parse_budget("tokens=40000")):
        mine, theirs = (
            collate(tmp_path, made.name, [LOSS, ACCURACY, "train/loss"], budget=budget, source=source)
            for source in (Source.journals, Source.mlflow)
        )
        untold = ["seconds", "started", "error", "dirty", "hardware"]
        pd.testing.assert_frame_equal(mine.trials.drop(columns=untold), theirs.trials.drop(columns=untold))
        pd.testing.assert_frame_equal(mine.curves, theirs.curves)
        assert np.allclose(mine.trials["started"], theirs.trials["started"], rtol=0, atol=0.002)
        assert mine.logged == theirs.logged
    with pytest.raises(UsageError, match="allowed from there is step=N or tokens=N"):
        collate(tmp_path, made.name, budget=parse_budget("seconds=3"), source=Source.mlflow)
