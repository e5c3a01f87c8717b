"""Log-probabilities against those of whole sequences read alone, and where writing stops."""

from collections.abc import Sequence

import pytest
import torch

from deltalab.data.tokens import ByteEncoder
from deltalab.evals import continuations
from deltalab.evals.continuations import by_length, score, write
from deltalab.model.init import initialise
from deltalab.model.language_model import LanguageModel
from deltalab.spec.sampling import SamplingSpec
from tests.specs import VARIANTS, trial

BYTES = ByteEncoder(257)
PAIRS = [
    (list(before), list(after))
    for before, after in [(b"is ice cold?", b" yes"), (b"a", b"bcd"), (b"is ice cold?", b" no"), (b"is ice cold", b"?")]
]


def make(variant: str) -> LanguageModel:
    spec = trial("data=text", f"variant={variant}", "model.window=6")
    model = LanguageModel(spec.variant, spec.model).eval()
    initialise(model, spec.model, 0)
    with torch.no_grad():
        model.embedding *= 8  # likely and unlikely tokens
    return model


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    return make("gated_delta_net_2")


def alone(model: LanguageModel, before: Sequence[int], after: Sequence[int]) -> tuple[float, bool]:
    with torch.no_grad():
        scores = model(torch.tensor([[*before, *after]]))[0].log_softmax(-1)[len(before) - 1 : -1]
    right = torch.tensor(after)
    return scores.gather(1, right[:, None]).sum().item(), bool((scores.argmax(-1) == right).all())


def check(model: LanguageModel, room: int) -> None:
    for (nats, greedy), pair in zip(score(model, PAIRS, room), PAIRS, strict=True):
        expected, right = alone(model, *pair)
        assert nats == pytest.approx(expected, rel=1e-4)
        assert greedy is right


@pytest.mark.parametrize("variant", VARIANTS)
def test_as_each_is_scored_alone(variant: str):
    check(make(variant), room=99)


@pytest.mark.parametrize("room", [1, 26])
def test_in_batches_and_pieces(model: LanguageModel, room: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(continuations, "LOGITS", 600)
    check(model, room)


def test_greedy_is_what_is_written(model: LanguageModel):
    before = list(b"one two")
    text = write(model, BYTES, [before], (), SamplingSpec(max_tokens=1), 9)[0].encode()
    with torch.no_grad():
        best = int(model(torch.tensor([before]))[0, -1].argmax())
    assert BYTES.bytes_of(best).decode(errors="replace").encode() == text
    other = (best + 1) % 256
    assert [greedy for _, greedy in score(model, [(before, [best]), (before, [other])], 2)] == [True, False]


def test_the_same_tokens_are_read_once(model: LanguageModel, monkeypatch: pytest.MonkeyPatch):
    read, features = [], LanguageModel.features

    def counted(self: LanguageModel, tokens: torch.Tensor, *more: object) -> torch.Tensor:
        read.append(tokens.numel())
        return features(self, tokens, *more)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(LanguageModel, "features", counted)
    answers = [(list(b"is it?"), [token]) for token in b"yn"]
    (yes, _), (no, _) = score(model, answers, 8)
    assert read == [6]
    assert yes != no


def test_nothing_to_score(model: LanguageModel):
    assert score(model, [([1], []), ([1], [2])], 1)[0] == (0, True)
    assert score(model, [], 1) == []


def test_the_longest_first_and_like_lengths_together():
    assert list(by_length([1, 3, 1, 2], 5)) == [[1, 3], [0, 2]]
    assert list(by_length([1, 3, 1, 2], 2)) == [[1], [3], [0, 2]]
    assert list(by_length([], 2)) == []


class Typist(LanguageModel):
    """A model that writes a text whatever it reads."""

    def __init__(self, text: bytes) -> None:
        spec = trial("data=text")
        super().__init__(spec.variant, spec.model)
        self.text, self.steps = [*text, BYTES.end], 0

    def prefill(self, tokens_BT: torch.Tensor, cu_seqlens=None, length=None):
        self.steps, self.rows = 0, len(tokens_BT) if cu_seqlens is None else len(cu_seqlens) - 1
        return self._next(), None

    def step(self, tokens_N: torch.Tensor, cache: object) -> torch.Tensor:
        self.steps += 1
        return self._next()

    def _next(self) -> torch.Tensor:
        token = self.text[min(self.steps, len(self.text) - 1)]
        return torch.nn.functional.one_hot(torch.tensor([token] * self.rows), 257).float()


@pytest.mark.parametrize(
    ("until", "tokens", "written", "steps"),
    [
        ((), 99, "größe\n\nend", 12),
        ((), 3, "gr\ufffd", 2),
        (("\n",), 99, "größe", 7),
        (("\n\n", "end"), 99, "größe", 8),
        (("nd", "\ne"), 99, "größe\n", 9),
        (("ß",), 99, "grö", 5),
    ],
)
def test_where_writing_stops(until: tuple[str, ...], tokens: int, written: str, steps: int):
    model = Typist("größe\n\nend".encode())
    prompts = [[1, 2], [3]]
    assert write(model, BYTES, prompts, until, SamplingSpec(max_tokens=tokens), 999) == [written] * 2
    assert model.steps == steps


def test_enough_ends_one_and_sees_nothing_behind_the_stop():
    seen = []

    def enough(number: int, text: str) -> bool:
        seen.append((number, text))
        return number == 0 and text == "a"

    texts = write(Typist(b"ab\ncd"), BYTES, [[1], [2, 3]], ["\n"], SamplingSpec(max_tokens=9), 99, enough)
    assert texts == ["a", "ab"]
    assert all("c" not in text for _, text in seen)
