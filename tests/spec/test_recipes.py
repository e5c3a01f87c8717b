"""The paper's recipes: what they say of tokens, and that the paper's run composes, resolves and fits its GPUs."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from deltalab.data.prepare import prepare
from deltalab.model.language_model import LanguageModel
from deltalab.model.memory import training_memory
from deltalab.spec import load
from deltalab.spec.data import TextSpec
from deltalab.study.resolve import resolve
from deltalab.train.optim import learning_rate
from tests.data.files import texts, use_empty_cache, write_parquet, write_tokenizer

PAPER = ("model=1.3b", "data=fineweb_edu", "variant=gated_delta_net_2")
H100 = 80e9
"""Bytes of an H100."""


@pytest.mark.parametrize(("recipe", "tokens"), [("paper_10b", 10e9), ("paper_100b", 100e9)])
def test_a_recipe_is_so_many_tokens_a_hundredth_of_them_warm_up(recipe: str, tokens: float) -> None:
    spec = load.trial_spec(load.compose([*PAPER, f"train={recipe}"]))
    step = spec.train.batch_size * spec.data.train_length
    assert step == 2**19
    assert abs(spec.train.steps * step - tokens) < step
    assert abs(spec.train.warmup_steps * step - tokens / 100) < step
    assert learning_rate(spec.train, spec.train.warmup_steps) == 4e-4
    assert learning_rate(spec.train, spec.train.steps) == pytest.approx(4e-5)


def test_the_papers_run_fits_eight_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_empty_cache(monkeypatch, tmp_path / "cache")
    hub = write_parquet(tmp_path / "hub", texts(2000))
    place = [f"data.hub={hub}", "data.hub_config=null", "data.held_out=5"]
    place.append(f"data.tokenizer_name={write_tokenizer(tmp_path / 'tokenizer.json', 32_000)}")
    data = load.trial_spec(load.compose([*PAPER, *place])).data
    assert isinstance(data, TextSpec)
    prepare(data)
    spec = resolve(load.trial_spec(load.compose([*PAPER, *place, "train=paper_100b"])))
    with torch.device("meta"):
        model = LanguageModel(spec.variant, spec.model)
    assert sum(parameter.numel() for parameter in model.parameters()) == pytest.approx(1.3e9, rel=0.005)
    assert training_memory(spec, gpu=True, processes=8).peak < H100
    at_once = replace(spec, train=replace(spec.train, micro_batch_size=None))
    assert training_memory(at_once, gpu=True, processes=8).peak > H100
