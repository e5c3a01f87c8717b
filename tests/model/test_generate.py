"""Writing on: batches of unlike prompts are as each alone, draws follow the distribution, mistakes are one line."""

import pytest
import torch

from deltalab.errors import ConfigError, UsageError
from deltalab.model.generate import choose, generate, stream
from deltalab.spec.sampling import SamplingSpec
from tests.model.test_decoding import model

PROMPTS = [[3], [5, 40, 7, 9, 33, 2, 61], [8, 8], [1, 2, 3, 4, 5, 6, 7]]


@pytest.mark.parametrize("pattern", ["[mixer]", "[mixer,swa]", "[attention]"])
def test_a_batch_writes_what_each_prompt_alone_does_by_whole_forward_passes(pattern: str) -> None:
    language_model = model("gated_delta_net_2", pattern).double()
    written = generate(language_model, PROMPTS, SamplingSpec(max_tokens=12))
    for prompt, found in zip(PROMPTS, written, strict=True):
        tokens = list(prompt)
        for _ in range(12):
            with torch.no_grad():
                tokens.append(int(language_model(torch.tensor([tokens]))[0, -1].argmax()))
        assert found == tokens[len(prompt) :]
    assert len({tuple(tokens) for tokens in written}) == len(PROMPTS)


def test_a_stopped_sequence_yields_nothing_more_and_the_others_go_on() -> None:
    language_model, many = model("kda", "[mixer]"), SamplingSpec(max_tokens=10)
    free = generate(language_model, PROMPTS, many)
    stop = free[1][4]
    stopped = generate(language_model, PROMPTS, many, stop={stop})
    assert stopped == [tokens[: tokens.index(stop)] if stop in tokens else tokens for tokens in free]
    assert len(stopped[1]) <= 4
    counts = [0, 0, 0, 0]

    def ended(row: int) -> bool:
        counts[row] += 1
        return counts[row] == 1 + row

    rows = [row for row, _ in stream(language_model, PROMPTS, many, ended=ended)]
    assert [rows.count(row) for row in range(4)] == [1, 2, 3, 4]
    assert len(rows) == 10


def test_seeds_decide_the_draws() -> None:
    language_model = model("kda", "[mixer,swa]")
    one, again, other = (
        generate(language_model, PROMPTS, SamplingSpec(max_tokens=12, temperature=1.5, seed=seed)) for seed in (1, 1, 2)
    )
    assert one == again != other
    fresh = [generate(language_model, PROMPTS, SamplingSpec(max_tokens=12, temperature=1.5)) for _ in range(2)]
    assert fresh[0] != fresh[1]


def test_draws_follow_temperature_and_top_p() -> None:
    probabilities = torch.tensor([0.15, 0.5, 0.05, 0.3])
    logits = probabilities.log().expand(20_000, 4)
    generator = torch.Generator().manual_seed(0)

    def shares(**how: float) -> torch.Tensor:
        drawn = choose(logits, SamplingSpec(**how), generator)  # pyright: ignore[reportArgumentType]
        return drawn.bincount(minlength=4) / len(drawn)

    assert shares(temperature=0).tolist() == [0, 1, 0, 0]
    torch.testing.assert_close(shares(temperature=1), probabilities, atol=0.02, rtol=0)
    torch.testing.assert_close(
        shares(temperature=2), probabilities.sqrt() / probabilities.sqrt().sum(), atol=0.02, rtol=0
    )
    nucleus = torch.tensor([0.15, 0.5, 0, 0.3]) / 0.95
    torch.testing.assert_close(shares(temperature=1, top_p=0.9), nucleus, atol=0.02, rtol=0)
    assert shares(temperature=1, top_p=0.01).tolist() == [0, 1, 0, 0]


@pytest.mark.parametrize(
    ("prompts", "said"),
    [
        ([], "prompts: none given; allowed is one or more"),
        ([[1], []], "prompt 2: empty; allowed is one token or more"),
        ([[1, 64]], "prompt 1: token 64; allowed is 0 to 63"),
        ([[-1]], "prompt 1: token -1; allowed is 0 to 63"),
    ],
)
def test_what_cannot_be_read_is_said(prompts: list[list[int]], said: str) -> None:
    with pytest.raises(UsageError) as raised:
        generate(model("kda", "[mixer]"), prompts)
    assert str(raised.value) == said


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("max_tokens", 0),
        ("temperature", -0.1),
        ("temperature", float("nan")),
        ("top_p", 0.0),
        ("top_p", 1.1),
        ("seed", -1),
    ],
)
def test_sampling_outside_its_bounds_is_refused(key: str, value: float) -> None:
    with pytest.raises(ConfigError, match=f"{key}={value}: allowed is"):
        SamplingSpec(**{key: value})  # pyright: ignore[reportArgumentType]


@pytest.mark.gpu
@pytest.mark.parametrize("pattern", ["[mixer]", "[mixer,swa]", "[attention]"])
def test_gpu_replayed_steps_write_what_single_ones_do(pattern: str) -> None:
    language_model = model("gated_delta_net_2", pattern).cuda()
    found = generate(language_model, PROMPTS, SamplingSpec(max_tokens=20))
    for prompt, written in zip(PROMPTS, found, strict=True):
        logits, cache = language_model.prefill(torch.tensor([prompt], device="cuda"))
        for token in written:
            assert int(logits.argmax(-1)) == token
            logits = language_model.step(logits.argmax(-1), cache)
