"""Models of many shapes compiled one after another in a process, as the trials of one worker are."""

from collections.abc import Iterator
from functools import partial

import pytest
import torch
import torch._dynamo
from torch._dynamo.utils import counters

from deltalab.train.loop import build_model
from deltalab.train.loss import Scorer
from tests.specs import trial


@pytest.fixture
def compiling(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """torch.compile that traces, guards and counts as ever, but spends no time on generating code."""
    torch._dynamo.reset()
    counters.clear()
    with torch._dynamo.config.patch(recompile_limit=8):
        monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
        yield
    torch._dynamo.reset()


def graphs_after(*overrides: str) -> int:
    """Graphs compiled in this process once a trial's model has taken a step, too."""
    spec = trial("variant=transformer", "model.depth=1", "train.compile=true", *overrides)
    scorer = Scorer(build_model(spec, torch.device("cpu")), compiled=spec.train.compile)
    tokens = torch.zeros(2, 8, dtype=torch.int64)
    scorer(tokens, tokens, count=False)[0].backward()
    return counters["stats"]["unique_graphs"]


@pytest.mark.usefixtures("compiling")
def test_every_shape_is_compiled_however_many_there_are_and_equal_ones_once() -> None:
    graphs = [graphs_after(f"model.mlp_width={16 * (1 + n)}") for n in range(9)]
    assert graphs == sorted(set(graphs)), "a shape that added no graph ran uncompiled"
    assert [graphs_after("model.mlp_width=16", f"seed={seed}") for seed in (1, 2)] == graphs[-1:] * 2
