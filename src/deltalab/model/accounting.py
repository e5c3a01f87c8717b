"""What a model costs, counted from its spec: parameters, recurrent state, FLOPs per token. Arithmetic only, no torch.

A test builds every variant on the meta device and holds these counts against the modules.
"""

from collections import Counter
from dataclasses import dataclass

from deltalab.spec.model import ModelSpec
from deltalab.spec.variant import Decay, Erase, Layer, Narrowing, VariantSpec, Write


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Costs of a model or of one of its layers.

    Attributes:
        parameters: trainable parameters.
        state: floats of recurrent state per sequence, whatever its length.
        cache: floats attention layers keep per sequence, at the training length.
        flops: forward floating-point operations per token, averaged over a training sequence; a multiply-add is two.
            The recurrence is counted in its tokenwise form.
    """

    parameters: int = 0
    state: int = 0
    cache: int = 0
    flops: int = 0

    def __rmul__(self, count: int) -> "Cost":
        return Cost(
            parameters=count * self.parameters,
            state=count * self.state,
            cache=count * self.cache,
            flops=count * self.flops,
        )

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(
            parameters=self.parameters + other.parameters,
            state=self.state + other.state,
            cache=self.cache + other.cache,
            flops=self.flops + other.flops,
        )


def cost(variant: VariantSpec, model: ModelSpec, length: int) -> Cost:
    """Cost of the whole language model for training sequences of ``length`` tokens."""
    assert model.vocab_size is not None, "a resolved ModelSpec has a vocab_size"
    total = Cost(
        parameters=model.vocab_size * model.d_model + model.d_model, flops=2 * model.vocab_size * model.d_model
    )
    for layer, count in Counter(variant.layers(model.depth)).items():
        block = layer_cost(layer, variant, model, length) + Cost(parameters=model.d_model) + mlp_cost(model)
        total += count * block
    return total


def layer_cost(layer: Layer, variant: VariantSpec, model: ModelSpec, length: int) -> Cost:
    """Cost of the mixer of an entry of ``VariantSpec.layers``."""
    if layer is Layer.gated_delta:
        return gated_delta_cost(variant, model)
    if layer is Layer.mamba2:
        return mamba2_cost(model)
    if layer is Layer.mamba3:
        return mamba3_cost(variant.rank, model)
    return attention_cost(layer, model, length)


def _linear(*shapes: tuple[int, int]) -> Cost:
    weights = sum(rows * columns for rows, columns in shapes)
    return Cost(parameters=weights, flops=2 * weights)


def mlp_cost(model: ModelSpec) -> Cost:
    """SwiGLU with its norm; nothing when the width is 0."""
    if not model.mlp_width:
        return Cost()
    return _linear((3 * model.mlp_width, model.d_model)) + Cost(parameters=model.d_model)


def attention_cost(layer: Layer, model: ModelSpec, length: int) -> Cost:
    """Softmax attention over a window (``swa``) or the whole past."""
    window = min(model.window, length) if layer is Layer.swa else length
    seen = sum(min(t, window) for t in range(1, length + 1)) / length
    return _linear((4 * model.d_model, model.d_model)) + Cost(
        cache=2 * window * model.d_model, flops=round(4 * seen * model.d_model)
    )


def gated_delta_cost(variant: VariantSpec, model: ModelSpec) -> Cost:
    """The gated delta mixer: projections, convolution, gates, recurrence, output."""
    d, h, hv = model.d_model, model.heads, model.value_heads or model.heads
    keys, values = h * model.head_dim, hv * model.value_dim
    channels = 2 * keys + values
    cells = values * model.head_dim  # floats of state
    passes = 2 + (variant.decay is not Decay.none) / 2 + (variant.erase is not Erase.none)
    return (
        _linear((channels, d), (values, d), (d, values))
        + _gate_cost(variant, model)
        + Cost(parameters=channels * model.conv_width, flops=2 * channels * model.conv_width)
        + Cost(parameters=model.value_dim, state=cells, flops=round(2 * passes * cells))
    )


def _gate_cost(variant: VariantSpec, model: ModelSpec) -> Cost:
    d, h, hv, k = model.d_model, model.heads, model.value_heads or model.heads, model.head_dim
    projected = variant.narrowing is Narrowing.project
    total = Cost()
    if variant.decay is Decay.scalar and projected:
        total += _linear((h, d)) + Cost(parameters=2 * h)
    elif variant.decay is not Decay.none:
        total += _linear((k, d), (h * k, k)) + Cost(parameters=h + h * k)
    if variant.erase is not Erase.none:
        total += _linear((h if variant.erase is Erase.scalar and projected else h * k, d))
    if variant.write is not Write.one and not variant.tie:
        total += _linear((hv if variant.write is Write.scalar and projected else hv * model.value_dim, d))
    return total


def mamba2_cost(model: ModelSpec) -> Cost:
    """The Mamba-2 mixer: projections, convolution, step and decay, recurrence, skip, norm and output."""
    d, inner, n, heads = _mamba_shape(model)
    channels = inner + 2 * n
    taps = Cost(parameters=channels * (model.conv_width + 1), flops=2 * channels * model.conv_width)
    return (
        _linear((inner + channels + heads, d), (d, inner))
        + (taps if model.conv_width else Cost())
        + Cost(parameters=3 * heads + inner, state=inner * n, flops=5 * inner * n + 2 * inner)
    )


def mamba3_cost(rank: int, model: ModelSpec) -> Cost:
    """The Mamba-3 mixer of rank R: every step decays and turns the state, writes twice (the past half of the step and
    its own) and reads once, each R times."""
    d, inner, n, heads = _mamba_shape(model)
    turning = max(1, n // 4)
    cells = inner * n
    recurrence = (6 * rank + 1) * cells + 6 * turning * inner
    return (
        _linear((2 * inner + 2 * rank * n + 3 * heads + turning, d), (d, inner))
        + Cost(parameters=2 * heads + 2 * n + 2 * rank * heads * n, state=cells, flops=recurrence + 2 * rank * inner)
        + (Cost(parameters=3 * rank * inner, flops=4 * rank * inner) if rank > 1 else Cost())
    )


def _mamba_shape(model: ModelSpec) -> tuple[int, int, int, int]:
    """Width of the residual stream, inner width, state channels, heads."""
    assert model.mamba_head_dim, "a resolved ModelSpec has a mamba_head_dim"
    assert model.d_state, "and a d_state"
    return model.d_model, model.inner_width, model.d_state, model.inner_width // model.mamba_head_dim
