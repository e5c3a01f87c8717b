"""Models of one size: depth and MLP width solved for a budget of parameters, state held against the model's own.

A model's parameters are affine in the MLP width m: with depth L, d = d_model,

    parameters = V d + d + Σ_layers (mixer + d) + L (3 d m + d)

(V d the tied embedding, a norm before every mixer, every MLP and the head), so two counts give the width that comes
nearest. A recurrent layer's state does not depend on the width; its target is what the gated delta rule keeps,
HV · K · V floats. Where no layer carries a state there is none to match, and depth is free too: it is the one whose
solved MLP is nearest to 8/3 d, the width at which SwiGLU has the parameters of the older MLP of 4 d.

Arithmetic only, no torch.
"""

from dataclasses import replace
from itertools import count

from deltalab.errors import ConfigError
from deltalab.model.accounting import cost, layer_cost
from deltalab.spec.model import ModelSpec
from deltalab.spec.variant import VariantSpec

TOLERANCE = 0.005
"""Relative mismatch in parameters that a budget allows."""
STATE_TOLERANCE = 0.01
"""Relative mismatch in the state of a recurrent layer that the plan leaves unsaid."""
MLP_RATIO = 8 / 3


def fitted(variant: VariantSpec, model: ModelSpec) -> ModelSpec:
    """The model with its open depth and MLP width solved for ``model.parameters``; one without either stays as it is,
    less the budget that it has no use for.

    Args:
        variant: whose mixers and pattern are counted.
        model: shape; ``vocab_size`` resolved.

    Raises:
        ConfigError: the budget is too small for the mixers and the embedding.
    """
    depth = model.depth
    if depth is None and any(
        layer_cost(layer, variant, model, 1).state for layer in variant.layers(len(variant.pattern))
    ):
        depth = model.recurrent_depth
    if depth is not None and model.mlp_width is not None:
        return replace(model, depth=depth, parameters=None)
    budget = model.parameters
    assert budget is not None, "ModelSpec refuses an open width without a budget"
    model = replace(model, depth=depth or _solved_depth(variant, model, budget))
    if model.mlp_width is None:
        model = replace(model, mlp_width=solve_mlp_width(variant, model, budget))
    if (found := counted(variant, model)) > (1 + TOLERANCE) * budget and model.mlp_width == model.mlp_multiple:
        raise ConfigError("model.parameters", budget, f"about {found} or more for this variant and shape")
    return model


def counted(variant: VariantSpec, model: ModelSpec) -> int:
    """Parameters as the budget counts them: with the vocabulary ``budget_vocab``."""
    return cost(variant, replace(model, vocab_size=model.budget_vocab or model.vocab_size), 1).parameters


def solve_mlp_width(variant: VariantSpec, model: ModelSpec, parameters: int) -> int:
    """The multiple of ``mlp_multiple``, one at least, whose model comes nearest to a budget."""
    unit = model.mlp_multiple
    one, two = (counted(variant, replace(model, mlp_width=n * unit)) for n in (1, 2))
    return unit * max(1, 1 + round((parameters - one) / (two - one)))


def layer_states(variant: VariantSpec, model: ModelSpec) -> list[int]:
    """Floats of state of each layer that carries one."""
    states = (layer_cost(layer, variant, model, 1).state for layer in variant.layers(model.depth))
    return [state for state in states if state]


def state_mismatch(variant: VariantSpec, model: ModelSpec) -> float:
    """How far, relatively, the state of the layer that is farthest off is from HV · K · V floats; 0 without a state."""
    target = (model.value_heads or model.heads) * model.head_dim * model.value_dim
    off = (state / target - 1 for state in layer_states(variant, model))
    return max(off, key=abs, default=0.0)


def _solved_depth(variant: VariantSpec, model: ModelSpec, budget: int) -> int:
    """The number of blocks, whole patterns of them, whose MLP is nearest to 8/3 d_model in width; where the width is
    given, the one that comes nearest to the budget."""
    best, least = len(variant.pattern), float("inf")
    for depth in count(len(variant.pattern), len(variant.pattern)):
        shape = replace(model, depth=depth)
        if model.mlp_width is None:
            off = abs(solve_mlp_width(variant, shape, budget) - MLP_RATIO * model.d_model)
        else:
            off = abs(counted(variant, shape) - budget)
        if off >= least:
            return best
        best, least = depth, off
    raise AssertionError("more blocks are farther off at some point")
