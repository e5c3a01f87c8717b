"""Initial values, each parameter from its own stream: the same seed, name and shape give the same values in every cell.

Linear layers Xavier uniform with gain 2^−2.5; exp(a) uniform in the decay range; δ the inverse softplus of a
log-uniform step; norms one; embedding N(0, 0.02²) (arXiv 2605.22791, App. C). Of Mamba layers besides: the skip D and
the biases of B and C one, the bias of the convolution as its weights, rank R taken apart and put together as means
(arXiv 2405.21060, 2603.15569 and the authors' code).
"""

import hashlib
import math

import torch
from torch import Tensor, nn

from deltalab.spec.model import ModelSpec

GAIN = 2.0**-2.5
EMBEDDING_STD = 0.02


@torch.no_grad()
def initialise(module: nn.Module, model: ModelSpec, seed: int) -> None:
    """Fill every parameter in place, on the CPU's generator so that devices agree.

    Args:
        module: a LanguageModel with allocated parameters.
        model: its resolved shape (``decay_range`` set).
        seed: the trial's seed.
    """
    for name, parameter in module.named_parameters():
        fill(name, parameter, model, seed)


@torch.no_grad()
def fill(name: str, parameter: Tensor, model: ModelSpec, seed: int) -> None:
    """Fill one parameter in place; ``name`` is the one it has in the LanguageModel."""
    stream = hashlib.sha256(f"{seed}:{name}:{tuple(parameter.shape)}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(stream[:8], "little") >> 1)
    parameter.copy_(_draw(name, parameter.shape, model, generator))


def _draw(name: str, shape: torch.Size, model: ModelSpec, generator: torch.Generator) -> Tensor:
    kind = name.rsplit(".", 1)[-1]
    if kind == "embedding":
        return torch.randn(shape, generator=generator) * EMBEDDING_STD
    if kind == "a":
        assert model.decay_range is not None, "a resolved ModelSpec has a decay_range"
        low, high = model.decay_range
        return (low + (high - low) * torch.rand(shape, generator=generator)).log()
    if kind == "delta":
        low, high = (math.log(bound) for bound in model.dt_range)
        dt = (low + (high - low) * torch.rand(shape, generator=generator)).exp()
        return dt + (-torch.expm1(-dt)).log()  # softplus⁻¹
    if kind in ("rank_in", "rank_out"):
        return torch.full(shape, 1 / shape[0])
    if kind == "conv_bias":
        return (2 * torch.rand(shape, generator=generator) - 1) * model.conv_width**-0.5
    if len(shape) != 2:
        return torch.ones(shape)
    bound = shape[1] ** -0.5 if ".conv." in name else GAIN * math.sqrt(6 / (shape[0] + shape[1]))
    return (2 * torch.rand(shape, generator=generator) - 1) * bound
