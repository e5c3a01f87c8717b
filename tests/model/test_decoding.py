"""A prompt at once, then token by token, is the forward pass over the whole; the cache does not grow with length."""

import pytest
import torch
from torch import Tensor

from deltalab.model.init import initialise
from deltalab.model.language_model import LanguageModel
from tests.specs import VARIANTS, trial

WINDOW = 5
FAMILIES = [(variant, pattern) for variant in VARIANTS for pattern in ("[mixer]", "[mixer,swa]")]
FAMILIES += [("kda", "[attention]"), ("kda", "[swa]"), ("kda", "[mixer,attention,swa]")]
PROMPTS = (1, 2, 3, 9, 17)
"""Shorter than the convolution, than the window, and longer than both."""
STEPS = 12


def model(variant: str, pattern: str, *overrides: str) -> LanguageModel:
    shape = ("model.depth=3", f"model.window={WINDOW}", *overrides)
    spec = trial(f"variant={variant}", f"variant.pattern={pattern}", "data=recall", *shape)
    built = LanguageModel(spec.variant, spec.model)
    initialise(built, spec.model, 0)
    with torch.no_grad():
        for parameter in built.parameters():
            if parameter.dim() == 2:
                parameter *= 4  # at its initial values a model says nearly the same whatever it has read
    return built.eval()


def sequences(lengths: tuple[int, ...]) -> list[Tensor]:
    random = torch.Generator().manual_seed(1)
    return [torch.randint(64, (length,), generator=random) for length in lengths]


@pytest.mark.parametrize(("variant", "pattern"), FAMILIES, ids=str)
def test_a_packed_prompt_then_steps_are_the_whole_sequence(variant: str, pattern: str) -> None:
    language_model, whole = model(variant, pattern), sequences(tuple(prompt + STEPS for prompt in PROMPTS))
    with torch.no_grad():
        want = [language_model(tokens[None])[0] for tokens in whole]
    packed = torch.cat([tokens[:prompt] for tokens, prompt in zip(whole, PROMPTS, strict=True)])
    cu_seqlens = torch.tensor([0, *PROMPTS]).cumsum(0)
    logits, cache = language_model.prefill(packed[None], cu_seqlens)
    for step in range(STEPS):
        at = [prompt + step for prompt in PROMPTS]
        expected = torch.stack([w[t - 1] for w, t in zip(want, at, strict=True)])
        assert (logits - expected).abs().max() <= 1e-4 * expected.abs().max()
        logits = language_model.step(torch.stack([tokens[t] for tokens, t in zip(whole, at, strict=True)]), cache)


@pytest.mark.parametrize(
    "shape", ["model.value_heads=4", "model.conv_width=0", "model.conv_width=1", "model.mlp_width=0"]
)
def test_other_shapes_decode_too(shape: str) -> None:
    language_model = model("gated_delta_net_2", "[mixer]", shape).double()
    tokens = torch.stack(sequences((9, 9)))
    with torch.no_grad():
        want = language_model(tokens)
    logits, cache = language_model.prefill(tokens[:, :4])
    for t in range(4, 9):
        torch.testing.assert_close(logits, want[:, t - 1], rtol=1e-6, atol=1e-9)  # the state's chunks and steps differ
        logits = language_model.step(tokens[:, t], cache)


@pytest.mark.parametrize(
    ("pattern", "short", "grows"),
    [("[mixer]", 1, False), ("[mixer,swa]", WINDOW, False), ("[swa]", WINDOW, False), ("[attention]", 1, True)],
)
def test_only_full_attention_needs_memory_for_length(pattern: str, short: int, grows: bool) -> None:
    language_model, held = model("gated_delta_net_2", pattern), set()
    for length in (short, 40, 400):
        _, cache = language_model.prefill(torch.zeros(1, length, dtype=torch.int64))
        before = cache.bytes
        for _ in range(3):
            language_model.step(torch.zeros(1, dtype=torch.int64), cache)
        assert (cache.bytes > before) is grows
        held.add(before)
    assert (len(held) > 1) is grows
    if grows:
        assert max(held) > 300 * min(held)


def test_a_window_holds_no_more_than_its_sequences_need() -> None:
    wide = model("kda", "[swa]", "model.window=1000")
    assert wide.new_cache(1, 10).bytes < wide.new_cache(1, 100).bytes < wide.new_cache(1, 1000).bytes
    assert wide.new_cache(1, 1000).bytes == wide.new_cache(1, 2000).bytes


def test_sequences_can_be_chosen_and_repeated() -> None:
    language_model, (tokens,) = model("gated_delta_net_2", "[mixer,swa,attention]"), sequences((24,))
    tokens = tokens.view(3, 8)
    _, cache = language_model.prefill(tokens)
    chosen = torch.tensor([2, 0, 0])
    cache.select(chosen)
    _, want = language_model.prefill(tokens[chosen])
    follow = torch.tensor([5, 6, 7])
    torch.testing.assert_close(language_model.step(follow, cache), language_model.step(follow, want))


def test_a_step_needs_and_leaves_no_gradient() -> None:
    language_model = model("kda", "[mixer,swa]")
    logits, cache = language_model.prefill(torch.zeros(1, 4, dtype=torch.int64))
    logits = language_model.step(logits.argmax(-1), cache)
    assert not logits.requires_grad
    assert not any(tensor.requires_grad for layer in cache.layers for tensor in layer.values())


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("pattern", ["[mixer]", "[mixer,swa]", "[attention]"])
def test_gpu_steps_are_the_whole_sequence(pattern: str, dtype: torch.dtype) -> None:
    language_model = model("gated_delta_net_2", pattern).to("cuda", dtype)
    tokens = torch.stack(sequences((40, 40))).cuda()
    with torch.no_grad():
        want = language_model(tokens).float()
    logits, cache = language_model.prefill(tokens[:, :9])
    bound = 1e-4 if dtype is torch.float32 else 5e-2
    for t in range(9, 40):
        expected = want[:, t - 1]
        assert (logits - expected).norm() <= bound * expected.norm()
        logits = language_model.step(tokens[:, t], cache)
