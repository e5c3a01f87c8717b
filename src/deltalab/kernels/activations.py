"""What makes a recurrence's inputs of raw projections, in plain torch; triton/activate.py has the same.

q, k = L2 norms;    g = −exp(a) ⊙ softplus(f + δ) in fp32;    b = r σ(b̂);    w = σ(ŵ)
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from deltalab.kernels.arguments import compute_dtype
from deltalab.kernels.norm import l2_norm

DecayParameters = tuple[Tensor, Tensor]
"""(a [H], δ [H] or [H, K] as the rate)."""


def activate_gates(
    g: Tensor | None,
    b: Tensor | None,
    w: Tensor | None,
    *,
    decay: DecayParameters | None = None,
    erase_range: float = 0.0,
    write_sigmoid: bool = False,
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """g, b, w as the recurrence takes them; which of them are raw is said as to ``dispatch.gated_delta_rule``."""
    if g is not None and decay is not None:
        g = log_decay(g, decay)
    tied = b is w
    if w is not None and write_sigmoid:
        w = torch.sigmoid(wide(w))
    if b is not None and erase_range:
        gate = w if w is not None and tied and write_sigmoid else torch.sigmoid(wide(b))
        b = gate if erase_range == 1 else erase_range * gate
    return g, b, w


def log_decay(rate: Tensor, decay: DecayParameters) -> Tensor:
    """−exp(a) ⊙ softplus(rate + δ), [..., H] or [..., H, K]; fp32, or fp64 where the rate is."""
    a, delta = decay
    scale = -a.exp()
    dt = F.softplus(wide(rate) + delta)
    return (scale if delta.dim() == 1 else scale[:, None]) * dt


def normalize_keys(q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    """q and k divided by their L2 norms, in fp32 or fp64."""
    return l2_norm(wide(q)), l2_norm(wide(k))


def check_decay(g: Tensor | None, decay: DecayParameters | None) -> None:
    """Refuse decay parameters that do not fit the rate g [B, T, H] or [B, T, H, K].

    Raises:
        ValueError: a shape does not fit, or there is no rate.
    """
    if decay is None:
        return
    if g is None:
        raise ValueError("decay: given without g, the rate that it activates")
    heads = g.shape[2:]
    for name, x, shape in (("a", decay[0], heads[:1]), ("δ", decay[1], heads)):
        if x.shape != shape:
            raise ValueError(f"decay: {name} has shape {list(x.shape)}; must be {list(shape)}")


def wide(x: Tensor) -> Tensor:
    """x in the dtype that is computed in: fp64 where it is that, else fp32."""
    return x.to(compute_dtype(x))
