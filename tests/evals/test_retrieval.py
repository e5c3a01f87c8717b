"""Needles answered by generation: what counts as right, by depth, and when generation ends."""

import math
import re
from collections.abc import Callable, Iterable

import pytest
import torch
from torch import Tensor

from deltalab.data.tokens import ByteEncoder
from deltalab.errors import ConfigError
from deltalab.evals.haystack import Haystack
from deltalab.evals.retrieval import measure_niah, retrieval_units
from deltalab.evals.ruler import Niah
from deltalab.model.cache import ModelCache
from deltalab.model.generate import generate
from deltalab.model.init import initialise
from deltalab.model.language_model import LanguageModel
from deltalab.spec.sampling import SamplingSpec
from deltalab.spec.suite import Suite, SuiteSpec
from tests.specs import trial

BYTES = ByteEncoder(257)
HAY = Haystack("hay", "All that is here is straw. And straw again, of another kind.")
NIAH = Niah("niah_single_2", 1024, BYTES.encode_text, HAY)


class Reader(LanguageModel):
    """A model that reads the prompt and writes what a rule makes of it; counts its steps."""

    def __init__(self, write: Callable[[str], Iterable[int]]) -> None:
        spec = trial("data=text")
        super().__init__(spec.variant, spec.model)
        self._write, self.steps = write, 0

    def prefill(
        self, tokens_BT: Tensor, cu_seqlens: Tensor | None = None, length: int | None = None
    ) -> tuple[Tensor, ModelCache]:
        """Plan what is written after each prompt; a prompt begins where its introduction does."""
        text = bytes(token for token in tokens_BT.flatten().tolist() if token < 256).decode()
        prompts = re.findall(r"A special magic .*?provided text is(?=A special|$)", text, re.DOTALL)
        self.plans = [list(self._write(prompt)) for prompt in prompts]
        self.steps = 0
        return self._next(), ModelCache(layers=[], length=0)

    def step(self, tokens_N: Tensor, cache: ModelCache) -> Tensor:
        """The next byte of each plan."""
        self.steps += 1
        return self._next()

    def _next(self) -> Tensor:
        tokens = [plan[self.steps] if self.steps < len(plan) else ord(".") for plan in self.plans]
        return torch.nn.functional.one_hot(torch.tensor(tokens), 257).float()


def value(prompt: str) -> str:
    return re.findall(r"is: (\S+)\.", prompt)[0]


def test_right_by_containment_and_no_step_is_taken_after():
    model = Reader(lambda prompt: f" I say {value(prompt)}".encode())
    values = measure_niah(model, NIAH, BYTES, samples=6, batch_size=6)
    assert values["accuracy"] == 1
    assert values["stderr"] == 0
    assert 0.97 <= values["fill"] <= 1
    assert model.steps == len(" I say 1234567") - 1


@pytest.mark.parametrize("said", [b"", b" 123456", b"1234567"])
def test_wrong(said: bytes):
    model = Reader(lambda prompt: said)
    assert measure_niah(model, NIAH, BYTES, samples=3, batch_size=2)["accuracy"] == 0
    assert model.steps == 127  # all of the answer's tokens


def test_the_end_of_a_document_ends_an_answer():
    model = Reader(lambda prompt: [BYTES.end, *value(prompt).encode()])
    assert measure_niah(model, NIAH, BYTES, samples=2, batch_size=2)["accuracy"] == 0


def test_accuracy_by_depth():
    """A reader of the first half: right up to 50 %, and nowhere else."""
    niah = Niah("niah_single_2", 2048, BYTES.encode_text, HAY)

    def write(prompt: str) -> bytes:
        return value(prompt).encode() if prompt.index("One of the") < len(prompt) / 2 else b"none"

    values = measure_niah(Reader(write), niah, BYTES, samples=60, batch_size=20)
    assert values["accuracy/depth/0-20"] == values["accuracy/depth/20-40"] == 1
    assert values["accuracy/depth/60-80"] == values["accuracy/depth/80-100"] == 0
    p = values["accuracy"]
    assert 0 < p < 1
    assert values["stderr"] == pytest.approx(math.sqrt(p * (1 - p) / 59))


def test_a_real_model_reads_prompts_of_unlike_lengths_as_it_reads_each_alone():
    spec = trial("data=text", "variant=gated_delta_net_2", "variant.pattern=[mixer,swa]", "model.window=6")
    model = LanguageModel(spec.variant, spec.model).eval()
    initialise(model, spec.model, 0)
    prompts = [NIAH.sample(number).tokens for number in range(3)]
    assert len({len(prompt) for prompt in prompts}) > 1
    together = generate(model, prompts, SamplingSpec(max_tokens=8))
    assert together == [generate(model, [prompt], SamplingSpec(max_tokens=8))[0] for prompt in prompts]
    values = measure_niah(model, NIAH, BYTES, samples=2, batch_size=2)
    assert 0 <= values["accuracy"] <= 1


def test_units():
    asked = SuiteSpec(suite=Suite.table3, task=("niah_single_1", "niah_single_2"), lengths=(1024,), samples=7)
    noise, prose = retrieval_units(asked, BYTES)
    assert noise.name.startswith("table3/niah_single_1/1024/noise-")
    assert prose.name.startswith("table3/niah_single_2/1024/help-")
    assert prose.identity["add_bos"] is True
    assert (prose.identity["samples"], prose.identity["version"], prose.identity["max_length"]) == (7, 1, 1024)
    assert prose.run.keywords["niah"].sample(0).tokens[0] == BYTES.end  # pyright: ignore[reportFunctionMemberAccess]
    assert len(retrieval_units(SuiteSpec(suite=Suite.table3), BYTES)) == 16


def test_an_unknown_task():
    with pytest.raises(ConfigError, match=r"task=niah: allowed is one of niah_single_1, "):
        retrieval_units(SuiteSpec(suite=Suite.table3, task=("niah",)), BYTES)
