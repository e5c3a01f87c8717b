"""Table 2: what is measured under which conditions, and standard errors."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from deltalab.data.tokens import ByteEncoder
from deltalab.errors import ConfigError, DeltalabError
from deltalab.evals.language import ACCURACY, language_units, standard_error
from deltalab.model.init import initialise
from deltalab.model.language_model import LanguageModel
from deltalab.spec.suite import Suite, SuiteSpec
from tests.evals.hub import REVISION
from tests.specs import trial

BYTES = ByteEncoder(257)


def asked(prepared: Path | str, **changed: object) -> SuiteSpec:
    return SuiteSpec(**{"suite": Suite.table2, "data_dir": str(prepared), **changed})  # pyright: ignore


def test_every_task_of_the_table(prepared: Path):
    units = language_units(asked(prepared, samples=9, add_bos=False), BYTES)
    assert [unit.name for unit in units][:3] == ["table2/wikitext", "table2/lambada_openai", "table2/piqa"]
    assert len(units) == 10
    identity = {unit.identity["task"]: unit.identity for unit in units}
    assert identity["boolq"] == {
        "task": "boolq", "version": 2, "lm_eval": identity["boolq"]["lm_eval"], "samples": 9, "max_length": 2048,
        "add_bos": False,
        "data": {"hub": "aps/super_glue", "config": "boolq", "split": "validation", "revision": REVISION},
    }  # fmt: skip
    assert identity["boolq"]["lm_eval"].startswith("0.4.")


def test_a_measurement(prepared: Path):
    spec = trial("data=text", "variant=gated_delta_net_2")
    model = LanguageModel(spec.variant, spec.model).eval()
    initialise(model, spec.model, 0)
    pages, endings = language_units(asked(prepared, task=("wikitext", "hellaswag"), max_length=20), BYTES)
    values = pages.run(model)
    assert values.keys() == {
        "samples", "beheaded", *(f"{name}{end}" for name in ("word_perplexity", "byte_perplexity", "bits_per_byte")
        for end in ("", "_stderr")),
    }  # fmt: skip
    assert values["bits_per_byte"] == pytest.approx(math.log2(values["byte_perplexity"]))
    values = endings.run(model)
    assert (values["samples"], values["beheaded"]) == (2, 8)  # four endings each, all behind more than 20 bytes
    assert values["accuracy"] == values["acc_norm"]
    assert values["stderr"] == values["acc_norm_stderr"]


def test_a_perplexity_beyond_all_numbers(prepared: Path):
    spec = trial("data=text")
    model = LanguageModel(spec.variant, spec.model).eval()
    initialise(model, spec.model, 0)
    with torch.no_grad():
        model.embedding *= 1e5
    (unit,) = language_units(asked(prepared, task=("lambada_openai",)), BYTES)
    with pytest.raises(DeltalabError, match=r"task=lambada_openai: .* beyond all numbers; task= asks for others"):
        unit.run(model)


def test_columns_of_the_paper():
    assert len(ACCURACY) == 9
    assert [name for name, metric in ACCURACY.items() if metric != "acc"] == ["hellaswag"]


def test_standard_errors_are_the_spread_of_redrawn_rows():
    """Each formula against 4,000 tests of 400 rows drawn anew."""
    rng = np.random.default_rng(0)
    words = rng.integers(1, 40, (4000, 400))
    nats = -words * rng.gamma(4, 1, words.shape)

    def agrees(metric: str, redrawn: np.ndarray, rows: list) -> None:
        assert standard_error(metric, rows) == pytest.approx(redrawn.std(), rel=0.15)

    r = nats.sum(1) / words.sum(1)
    pages = list(zip(nats[0], words[0], strict=True))
    agrees("word_perplexity", np.exp(-r), pages)
    agrees("bits_per_byte", -r / math.log(2), pages)
    last = -rng.gamma(3, 0.5, words.shape)
    agrees("perplexity", np.exp(-last.mean(1)), list(last[0]))
    right = rng.random(words.shape) < 0.3
    agrees("acc", right.mean(1), list(right[0].astype(float)))
    assert math.isnan(standard_error("acc", [1.0]))


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"task": ("arc",)}, "task=arc: allowed is one of wikitext, lambada_openai, "),
        ({"lengths": (64, 128)}, "lengths=64,128: allowed is none with suite=table2; max_length says"),
        (
            {"data_dir": "nowhere"},
            "data_dir=nowhere: allowed is a folder that deltalab prepare-eval suite=table2 out=DIR",
        ),
    ],
)
def test_mistakes(prepared: Path, changed: dict[str, object], said: str):
    with pytest.raises(ConfigError) as caught:
        language_units(asked(prepared, **changed), BYTES)
    assert str(caught.value).startswith(said)
