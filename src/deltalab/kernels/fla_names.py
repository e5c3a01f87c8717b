"""The kernels under flash-linear-attention's names, so that a test-suite written for it runs on them.

Function and argument names, layouts and defaults are those of flash-linear-attention 0.6.0; the code behind them is
this project's (``dispatch.choose`` picks the form), and nothing here imports ``fla``. With ``use_gate_in_kernel`` the
log-decay is −exp(A_log) ⊙ softplus(g + dt_bias), with ``use_qk_l2norm_in_kernel`` q and k are x / √(|x|² + 1e-6).

q, k [B, T, H, K]; v [B, T, HV, V], HV a multiple of H. Decay, erase gate and β may come for each value head
[B, T, HV, …], as flash-linear-attention takes them (q and k are then repeated), or for each key head [B, T, H, …].
"""

from typing import Any

import torch
from torch import Tensor

from deltalab.kernels import dispatch
from deltalab.kernels.activations import wide

FIXED: dict[str, Any] = {
    "safe_gate": False,
    "lower_bound": None,
    "return_intermediate_states": False,
    "state_v_first": False,
    "transpose_state_layout": False,
    "cp_context": None,
    "use_graph": False,
    "max_num_seqs": None,
}
"""Arguments that the kernels do not have, with the one value that is taken."""
UNUSED = ("cu_seqlens_cpu", "chunk_indices", "chunk_size", "disable_recompute")
"""Arguments taken and not looked at: no result depends on them."""
Result = tuple[Tensor, Tensor | None]


def chunk_gdn2(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    b: Tensor,
    w: Tensor,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    use_qk_l2norm_in_kernel: bool = False,
    *,
    use_gate_in_kernel: bool = False,
    A_log: Tensor | None = None,
    dt_bias: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
    **others: Any,
) -> Result:
    """Gated DeltaNet-2: channel-wise decay, erase and write.

    Args:
        g: log-decay (natural, ≤ 0) [B, T, HV or H, K]; the raw rate with ``use_gate_in_kernel``.
        b: erase gate [B, T, HV or H, K].
        w: write gate [B, T, HV, V].
        scale: factor of the output; K**-0.5 unless given.
        initial_state: [N, HV, K, V], zero unless given.
        A_log: one value for each of g's heads; with ``use_gate_in_kernel`` only, and then needed.
        dt_bias: one value for each of g's heads and channels; zero unless given.
        cu_seqlens: [N + 1] boundaries of sequences packed along T (B = 1).
        others: ``UNUSED`` ones, and ``FIXED`` ones with their default.

    Returns:
        o [B, T, HV, V] in v's dtype, and the final state [N, HV, K, V] if ``output_final_state``, else None.

    Raises:
        ValueError: a shape does not fit, or an argument has a value that the kernels cannot do.
    """
    _check_others(others)
    decay = _decay(use_gate_in_kernel, g, A_log, dt_bias)
    options = _options(scale, initial_state, output_final_state, cu_seqlens)
    return _run(q, k, v, g, b, w, decay, use_qk_l2norm_in_kernel, options)


def fused_recurrent_gdn2(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    b: Tensor,
    w: Tensor,
    A_log: Tensor | None = None,
    dt_bias: Tensor | None = None,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    use_qk_l2norm_in_kernel: bool = False,
    **others: Any,
) -> Result:
    """``chunk_gdn2`` in the argument order of flash-linear-attention's tokenwise form: the same form runs."""
    return chunk_gdn2(
        q,
        k,
        v,
        g,
        b,
        w,
        scale,
        initial_state,
        output_final_state,
        use_qk_l2norm_in_kernel,
        A_log=A_log,
        dt_bias=dt_bias,
        **others,
    )


def chunk_kda(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    beta: Tensor,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    use_qk_l2norm_in_kernel: bool = False,
    use_gate_in_kernel: bool = False,
    use_beta_sigmoid_in_kernel: bool = False,
    allow_neg_eigval: bool = False,
    *,
    A_log: Tensor | None = None,
    dt_bias: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
    **others: Any,
) -> Result:
    """Kimi Delta Attention: channel-wise decay, one β per head for erase and write.

    Args:
        g: [B, T, HV or H, K], as in ``chunk_gdn2``.
        beta: [B, T, HV or H].
        use_beta_sigmoid_in_kernel: beta is raw: β = sigmoid(beta), twice that with ``allow_neg_eigval``.

    Arguments not named here, results and errors are those of ``chunk_gdn2``.
    """
    _check_others(others)
    beta = _activated(beta, use_beta_sigmoid_in_kernel, allow_neg_eigval)
    decay = _decay(use_gate_in_kernel, g, A_log, dt_bias)
    options = _options(scale, initial_state, output_final_state, cu_seqlens)
    return _run(q, k, v, g, beta, None, decay, use_qk_l2norm_in_kernel, options)


def chunk_gated_delta_rule(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    beta: Tensor,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    use_qk_l2norm_in_kernel: bool = False,
    use_beta_sigmoid_in_kernel: bool = False,
    allow_neg_eigval: bool = False,
    **others: Any,
) -> Result:
    """Gated DeltaNet: one decay g [B, T, HV or H] and one β [B, T, HV or H] per head; the rest as ``chunk_kda``."""
    return chunk_kda(
        q,
        k,
        v,
        g,
        beta,
        scale,
        initial_state,
        output_final_state,
        use_qk_l2norm_in_kernel,
        use_beta_sigmoid_in_kernel=use_beta_sigmoid_in_kernel,
        allow_neg_eigval=allow_neg_eigval,
        **others,
    )


def chunk_delta_rule(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    use_qk_l2norm_in_kernel: bool = False,
    cu_seqlens: Tensor | None = None,
    **others: Any,
) -> Result:
    """DeltaNet: no decay, one β [B, T, HV or H] per head; the rest as ``chunk_gdn2``."""
    _check_others(others)
    options = _options(scale, initial_state, output_final_state, cu_seqlens)
    return _run(q, k, v, None, beta, None, None, use_qk_l2norm_in_kernel, options)


def _run(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor | None,
    b: Tensor,
    w: Tensor | None,
    decay: tuple[Tensor, Tensor] | None,
    normalize: bool,
    options: dict[str, Any],
) -> Result:
    """Bring the heads together (without w, β = b is tied to the write gate) and run the form that fits."""
    group = v.shape[2] // q.shape[2] if q.dim() == v.dim() == 4 else 1
    if w is None:
        w = b if b.shape[2] == v.shape[2] else b.repeat_interleave(group, 2)
    if group > 1 and any(x is not None and x.shape[2] == v.shape[2] for x in (g, b)):
        heads = q.shape[2]
        q, k, b = (_spread(x, 2, heads, group) for x in (q, k, b))
        g = None if g is None else _spread(g, 2, heads, group)
        decay = None if decay is None else (_spread(decay[0], 0, heads, group), _spread(decay[1], 0, heads, group))
    return dispatch.gated_delta_rule(q, k, v, g, b, w, normalize=normalize, decay=decay, **options)


def _spread(x: Tensor, axis: int, heads: int, group: int) -> Tensor:
    """Repeat what there is for each key head, for each value head."""
    return x.repeat_interleave(group, axis) if x.shape[axis] == heads else x


def _activated(beta: Tensor, raw: bool, twice: bool) -> Tensor:
    """β; its sigmoid is taken out here, in every form, for it has but one value per head."""
    if twice and not raw:
        raise ValueError("allow_neg_eigval: True; allowed is False unless use_beta_sigmoid_in_kernel=True")
    return (1 + twice) * torch.sigmoid(wide(beta)) if raw else beta


def _decay(raw: bool, g: Tensor, A_log: Tensor | None, dt_bias: Tensor | None) -> tuple[Tensor, Tensor] | None:
    """a and δ in the shapes of g's heads, or None where g is the log-decay itself."""
    if not raw:
        for name, x in (("A_log", A_log), ("dt_bias", dt_bias)):
            if x is not None:
                raise ValueError(f"{name}: {_shown(x)}; allowed is None unless use_gate_in_kernel=True")
        return None
    if A_log is None:
        raise ValueError("A_log: None; use_gate_in_kernel=True needs one value for each head of g")
    heads = g.shape[2:]
    for name, x, shape in (("A_log", A_log, heads[:1]), ("dt_bias", dt_bias, heads)):
        if x is not None and x.numel() != shape.numel():
            raise ValueError(f"{name}: {_shown(x)}; allowed is {list(shape)}, for g is {list(g.shape)}")
    a = A_log.reshape(heads[:1])
    return a, torch.zeros(heads, dtype=a.dtype, device=a.device) if dt_bias is None else dt_bias.reshape(heads)


def _options(
    scale: float | None, initial_state: Tensor | None, output_final_state: bool, cu_seqlens: Tensor | None
) -> dict[str, Any]:
    return {
        "scale": scale,
        "initial_state": initial_state,
        "output_final_state": output_final_state,
        "cu_seqlens": cu_seqlens,
    }


def _check_others(others: dict[str, Any]) -> None:
    """Refuse what the kernels do not have.

    Raises:
        ValueError: an unknown argument, or a ``FIXED`` one with another value than its default.
    """
    for name, value in others.items():
        if name in UNUSED:
            continue
        if name not in FIXED:
            raise ValueError(f"{name}: {_shown(value)}; no such argument; further ones are {', '.join(FIXED)}")
        if value is not FIXED[name]:
            raise ValueError(f"{name}: {_shown(value)}; allowed is {FIXED[name]}")


def _shown(value: Any) -> str:
    """A value in a few words: what is printed in many lines is named by its type."""
    if isinstance(value, Tensor):
        return f"shape {list(value.shape)}"
    return repr(value) if value is None or isinstance(value, bool | int | float | str) else type(value).__name__
