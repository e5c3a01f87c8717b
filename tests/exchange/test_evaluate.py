"""deltalab eval: what the journal keeps, what is not measured again, and mistakes as one line."""

import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from deltalab.evals import language, small
from deltalab.evals.sets import LANGUAGE
from deltalab.spec.trial import TrialSpec
from deltalab.study import ledger
from deltalab.track import journal
from deltalab.track.claim import claimed
from deltalab.track.journal import Journal, State
from tests.evals.hub import ROWS
from tests.exchange.trained import BPE, TEXT, Eval, trained

ROWS_OF = {f"table2/{name}": ROWS[one.hub, one.config or "default", one.split] for name, one in LANGUAGE.items()}
SMALL = ("suite=small", "task=mqar", "lengths=64", "samples=6")


@pytest.fixture
def spec(runs: Path) -> TrialSpec:
    spec = trained(runs, "data=recall")
    log = Journal(ledger.trial_dir(runs, spec.trial_id))
    log.state(State.running, steps=spec.train.steps)
    log.metrics(spec.train.steps, {"eval/accuracy": 0.5})
    log.state(State.completed)
    return spec


def evaluations(runs: Path, spec: TrialSpec) -> Sequence[dict[str, Any]]:
    return journal.read(ledger.trial_dir(runs, spec.trial_id)).evaluations


def test_results_are_journalled_with_how_they_were_made(runs: Path, spec: TrialSpec, evaluate: Eval):
    code, out, _ = evaluate(spec.trial_id, *SMALL)
    assert code == 0
    found = evaluations(runs, spec)
    assert [one["name"] for one in found] == ["small/mqar/64/pairs-8", "small/mqar/64/pairs-16"]
    for line, one in zip(out.splitlines(), found, strict=True):
        assert (one["task"], one["version"], one["samples"], one["length"], one["max_length"]) == ("mqar", 1, 6, 64, 64)
        assert (one["dtype"], one["add_bos"], len(one["weights"]), one["suite"]) == ("float32", False, 64, "small")
        accuracy, error = (one["values"][f"{one['name']}/{kind}"] for kind in ("accuracy", "stderr"))
        assert line == f"{one['name']}  {accuracy:.4f} ± {error:.4f}  (6 samples, float32)"
    record = journal.read(ledger.trial_dir(runs, spec.trial_id))
    assert record.state is State.completed
    assert record.last("eval/accuracy") == 0.5
    assert record.last("small/mqar/64/pairs-8/accuracy/gap/1-4") is not None


def test_what_is_there_is_not_measured_again(
    runs: Path, spec: TrialSpec, evaluate: Eval, monkeypatch: pytest.MonkeyPatch
):
    measured, measure = [], small.measure

    def killed_at_the_second(*arguments: Any) -> dict[str, float]:
        measured.append(arguments)
        if len(measured) == 2:
            raise KeyboardInterrupt
        return measure(*arguments)

    monkeypatch.setattr(small, "measure", killed_at_the_second)
    assert evaluate(spec.trial_id, *SMALL)[0] == 130
    assert len(evaluations(runs, spec)) == 1
    first = evaluate(spec.trial_id, *SMALL)
    again = evaluate(spec.trial_id, *SMALL, "batch_size=2")
    assert again == first
    assert len(measured) == 3
    assert len(evaluations(runs, spec)) == 2
    evaluate(spec.trial_id, *SMALL[:-1], "samples=5")
    evaluate(spec.trial_id, *SMALL, "--dtype", "bfloat16")
    assert [one["samples"] for one in evaluations(runs, spec)] == [6, 6, 5, 5, 6, 6]
    assert evaluations(runs, spec)[-1]["dtype"] == "bfloat16"


@pytest.mark.parametrize("data", [BPE, ("data=text", "model.window=6")])
def test_needles(runs: Path, evaluate: Eval, data: tuple[str, ...]):
    spec = trained(runs, *data)
    settings = ("suite=table3", "lengths=1024", "samples=2", "task=niah_single_1,niah_multikey_1")
    code, out, err = evaluate("variant=gated_delta_net_2", *settings, "--json")
    assert code == 0, err
    shown = json.loads(out)
    assert [one["name"].split("/")[1:3] for one in shown] == [["niah_single_1", "1024"], ["niah_multikey_1", "1024"]]
    assert shown == list(evaluations(runs, spec))
    for one in shown:
        assert one["add_bos"] is True
        assert one["name"].endswith(one["haystack"])
        assert one["values"][f"{one['name']}/fill"] > 0.97


def test_language_goes_on_where_it_was(
    runs: Path, prepared: Path, evaluate: Eval, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    """All of Table 2 by one command, interrupted in the middle; what is there is not read again."""
    monkeypatch.setenv("DELTALAB_CACHE", str(tmp_path))
    spec = trained(runs, *BPE)
    settings = ("variant=gated_delta_net_2", "suite=table2", f"data_dir={prepared}")
    measured, measure = [], language.measure_language

    def killed_at_the_third(*arguments: Any, **more: Any) -> dict[str, float]:
        measured.append(more["name"])
        if len(measured) == 3:
            raise KeyboardInterrupt
        return measure(*arguments, **more)

    monkeypatch.setattr(language, "measure_language", killed_at_the_third)
    assert evaluate(*settings)[0] == 130
    assert [one["task"] for one in evaluations(runs, spec)] == ["wikitext", "lambada_openai"]
    code, out, err = evaluate(*settings)
    assert (code, err) == (0, "")
    assert len(measured) == 11
    *lines, average = out.splitlines()
    found = evaluations(runs, spec)
    for line, one in zip(lines, found, strict=True):
        values, name = one["values"], one["name"]
        assert line.startswith(f"{name}  ")
        assert line.endswith(f"({len(ROWS_OF[name])} samples, float32)")
        assert (one["dtype"], one["add_bos"], one["max_length"], one["lm_eval"][:4]) == ("float32", True, 2048, "0.4.")
        assert values[f"{name}/samples"] == len(ROWS_OF[name])
    perplexity = found[0]["values"]["table2/wikitext/word_perplexity"]
    assert f"word_perplexity {perplexity:.4f} ± " in lines[0]
    assert re.fullmatch(r"table2/lambada_openai  perplexity \S+ ± \S+, accuracy \S+ ± \S+  \(.*", lines[1])
    accuracies = [one["values"][f"{one['name']}/accuracy"] for one in found[1:]]
    assert average == f"table2/average  {sum(accuracies) / 9:.4f}  (9 tasks)"
    assert evaluate(*settings)[1] == out
    assert len(measured) == 11


def test_documents_read_twice(runs: Path, prepared: Path, evaluate: Eval):
    spec = trained(runs, *TEXT)
    asked = ("variant=gated_delta_net_2", "suite=table4", f"data_dir={prepared}")
    code, out, err = evaluate(*asked, "task=swde,drop", "--json")
    assert code == 0, err
    shown = json.loads(out)
    assert shown == list(evaluations(runs, spec))
    assert [one["name"] for one in shown] == ["table4/swde", "table4/drop"]
    assert shown[0]["values"]["table4/swde/dropped"] == 1
    assert shown[0]["data"]["hub"] == "hazyresearch/based-swde-v2"
    assert "average" not in evaluate(*asked, "task=swde,drop")[1]
    code, out, err = evaluate(*asked)
    assert out.splitlines()[-1] == "table4/average  0.0000  (6 tasks)"


def test_mistakes_are_one_line(runs: Path, spec: TrialSpec, evaluate: Eval):
    folder = ledger.trial_dir(runs, spec.trial_id)
    shutil.copytree(folder, folder / "checkpoints" / "step-00000001")
    unfinished = shutil.copytree(folder, runs / "unfinished")
    (unfinished / "model.safetensors").unlink()
    (unfinished / journal.FILE).unlink()
    for arguments, said in [
        ((spec.trial_id, "suite=table9"), "suite=table9: allowed is one of table2, table3, table4, small"),
        ((spec.trial_id, "suite=small", "task=s5"), "task=s5: allowed is mqar, "),
        ((spec.trial_id, "suite=table2"), "suite=table2: allowed is small: the trial's vocabulary (64 tokens"),
        ((spec.trial_id, "suite=table4"), "suite=table4: allowed is small: the trial's vocabulary (64 tokens"),
        ((spec.trial_id, "suite=table3"), "suite=table3: allowed is small: the trial's vocabulary (64 tokens"),
        (("nothing", "suite=small"), "nothing: no "),
        ((str(folder / "checkpoints" / "step-00000001"), "suite=small"), "a checkpoint; allowed is a finished trial"),
        ((str(unfinished), "suite=small"), "no model.safetensors, the trial is planned"),
    ]:
        code, out, err = evaluate(*arguments)
        assert (code, out, err.count("\n")) == (2, "", 1), err
        assert said in err


def test_a_trial_that_is_measured_by_another_process(runs: Path, spec: TrialSpec, evaluate: Eval):
    with claimed(ledger.trial_dir(runs, spec.trial_id)):
        code, _, err = evaluate(spec.trial_id, *SMALL)
    assert code == 1
    assert "another process runs this trial" in err
    assert evaluations(runs, spec) == []
