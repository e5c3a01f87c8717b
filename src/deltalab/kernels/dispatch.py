"""Which form of the gated delta rule runs: ``chunk`` unless a form is named.

``chunk`` is the fast exact form of every variant (dense products over chunks, written backward);
``reference`` is the definition, token by token, for tests and for reading.
"""

from typing import Literal

from torch import Tensor

from deltalab.kernels import chunk, reference

Form = Literal["chunk", "reference"]

_FORMS = {"chunk": chunk.gated_delta_rule, "reference": reference.gated_delta_rule}


def gated_delta_rule(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor | None = None,
    b: Tensor | None = None,
    w: Tensor | None = None,
    *,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    cu_seqlens: Tensor | None = None,
    form: Form | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Run the form named, or the fastest there is; arguments and results as ``reference.gated_delta_rule``.

    Raises:
        ValueError: an unknown form, or a shape that does not fit.
    """
    run = _FORMS.get(form or "chunk")
    if run is None:
        raise ValueError(f"form: {form!r}; must be one of {', '.join(_FORMS)}")
    return run(
        q,
        k,
        v,
        g,
        b,
        w,
        scale=scale,
        initial_state=initial_state,
        output_final_state=output_final_state,
        cu_seqlens=cu_seqlens,
    )
