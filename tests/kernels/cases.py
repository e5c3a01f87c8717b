"""Inputs, gradients and error measures shared by the kernel tests.

A variant of the lattice is a row of ``VARIANTS``: decay, erase and write granularity, whether one β is tied to both
gates, and the range of the erase gate.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

Form = Callable[..., tuple[Tensor, Tensor | None]]


class Variant(NamedTuple):
    """none (of write: one) | scalar | channel per gate, as in ``deltalab.spec.variant``."""

    decay: str
    erase: str
    write: str
    tie: bool = False
    erase_range: int = 1


VARIANTS = {
    "delta_net": Variant("none", "scalar", "scalar", tie=True),
    "gated_delta_net": Variant("scalar", "scalar", "scalar", tie=True),
    "kda": Variant("channel", "scalar", "scalar", tie=True),
    "erase_only": Variant("channel", "channel", "scalar"),
    "write_only": Variant("channel", "scalar", "channel"),
    "untied_scalar": Variant("channel", "scalar", "scalar"),
    "gated_delta_net_2": Variant("channel", "channel", "channel"),
    "gated_delta_net_2_wide": Variant("channel", "channel", "channel", erase_range=2),
    "gated_linear_attention": Variant("channel", "none", "one"),
    "gated_linear_attention_scalar": Variant("scalar", "none", "scalar"),
    "gated_linear_attention_write": Variant("channel", "none", "channel"),
    "linear_attention": Variant("none", "none", "one"),
}
CHANNEL_DECAY = [name for name, variant in VARIANTS.items() if variant.decay == "channel"]
DECAYING = [name for name, variant in VARIANTS.items() if variant.decay != "none"]

DECAYS: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda u: 0 * u,
    "mild": lambda u: -0.2 * u,
    "strong": lambda u: -20 + 0 * u,
    "mixed channels": lambda u: -20.0 * (torch.arange(u.shape[-1]) % 2) + 0 * u,
    "mixed tokens": lambda u: -20 * (u > 0.8).to(u.dtype),
    "extreme": lambda u: -100 + 0 * u,
}


@dataclass(frozen=True, kw_only=True)
class Case:
    """One problem. ``leaves`` are what gradients are taken of: q, k, v, and g, b, w (or ``beta``), S0 if present."""

    leaves: dict[str, Tensor]
    cu_seqlens: Tensor | None = None
    final: bool = True

    def to(self, dtype: torch.dtype) -> "Case":
        return replace(self, leaves={name: x.to(dtype) for name, x in self.leaves.items()})


def make_case(
    name: str = "gated_delta_net_2",
    *,
    shape: tuple[int, int, int, int, int] = (2, 65, 2, 6, 5),
    group: int = 1,
    decay: str = "mild",
    states: bool = True,
    lengths: tuple[int, ...] | None = None,
    seed: int = 0,
) -> Case:
    """A random fp64 case of the variant; shape is (B, T, H, K, V), ``lengths`` packs sequences of these lengths."""
    variant = VARIANTS[name]
    batch, time, heads, width, values = shape
    if lengths is not None:
        batch, time = 1, sum(lengths)
    random = torch.Generator().manual_seed(seed)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=random, dtype=torch.float64)

    def gate(kind: str, heads: int, width: int) -> Tensor | None:
        full = {"none": None, "one": None, "scalar": (batch, time, heads), "channel": (batch, time, heads, width)}[kind]
        return None if full is None else uniform(*full)

    leaves: dict[str, Tensor | None] = {
        "q": F.normalize(uniform(batch, time, heads, width) - 0.5, dim=-1),
        "k": F.normalize(uniform(batch, time, heads, width) - 0.5, dim=-1),
        "v": 2 * uniform(batch, time, heads * group, values) - 1,
    }
    g = gate(variant.decay, heads, width)
    leaves["g"] = None if g is None else DECAYS[decay](g)
    if variant.tie:
        leaves["beta"] = gate("scalar", heads, 1)
    else:
        b = gate(variant.erase, heads, width)
        leaves["b"] = None if b is None else variant.erase_range * b
        leaves["w"] = gate(variant.write, heads * group, values)
    sequences = batch if lengths is None else len(lengths)
    leaves["S0"] = uniform(sequences, heads * group, width, values) - 0.5 if states else None
    return Case(
        leaves={name: x for name, x in leaves.items() if x is not None},
        cu_seqlens=None if lengths is None else F.pad(torch.tensor(lengths).cumsum(0), (1, 0)),
        final=states,
    )


def run(
    form: Form, case: Case, /, *, place: Callable[[Tensor], Tensor] = torch.clone, **options: Any
) -> dict[str, Tensor]:
    """o, the final state and the gradient of every leaf, for fixed random cotangents.

    Args:
        place: copies a leaf or a cotangent to where the form finds it.
    """
    leaves = {name: place(x.detach()).requires_grad_() for name, x in case.leaves.items()}
    q, k, v = leaves["q"], leaves["k"], leaves["v"]
    b, w = leaves.get("b"), leaves.get("w")
    if "beta" in leaves:
        b = leaves["beta"]
        w = b.repeat_interleave(v.shape[2] // k.shape[2], dim=2)
    o, state = form(
        q,
        k,
        v,
        leaves.get("g"),
        b,
        w,
        initial_state=leaves.get("S0"),
        output_final_state=case.final,
        cu_seqlens=case.cu_seqlens,
        **options,
    )
    results = {"o": o} | ({} if state is None else {"state": state})
    cotangents = [place(cotangent(x, seed)) for seed, x in enumerate(results.values())]
    grads = torch.autograd.grad(list(results.values()), list(leaves.values()), cotangents)
    return {name: x.detach() for name, x in results.items()} | {
        "d" + name: x for name, x in zip(leaves, grads, strict=True)
    }


def cotangent(x: Tensor, seed: int) -> Tensor:
    """The same numbers for the same shape, whatever the dtype and device."""
    random = torch.Generator().manual_seed(1000 + seed)
    return torch.randn(x.shape, generator=random, dtype=torch.float64).to(x.device, x.dtype)


def assert_close(got: dict[str, Tensor], want: dict[str, Tensor], bound: float) -> None:
    """max |error| ≤ bound · max |reference| for every entry."""
    assert got.keys() == want.keys()
    for name, reference in want.items():
        size = reference.abs().max().item()
        error = (got[name].double() - reference.double()).abs().max().item()
        assert error <= bound * size, f"{name}: {error:.1e} > {bound:.0e} · {size:.1e}"


MARGIN = 64 * 256
"""Elements that ``between_nans`` leaves on either side: a whole chunk of the widest rows."""


def between_nans(x: Tensor) -> Tensor:
    """A copy in memory that is NaN before and behind it: a padding row that is read and not masked shows."""
    room = torch.full((x.numel() + 2 * MARGIN,), float("nan"), dtype=x.dtype, device=x.device)
    return room[MARGIN:-MARGIN].view(x.shape).copy_(x)


@contextmanager
def poisoned_memory() -> Iterator[None]:
    """Every torch.empty holds NaN, or an integer's largest value."""
    filled = torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    try:
        assert torch.empty(2).isnan().all()
        yield
    finally:
        torch.use_deterministic_algorithms(False)
        torch.utils.deterministic.fill_uninitialized_memory = filled


def rms_error(got: Tensor, want: Tensor) -> float:
    """RMS(error) / RMS(reference)."""
    return ((got.double() - want.double()).norm() / want.double().norm()).item()
