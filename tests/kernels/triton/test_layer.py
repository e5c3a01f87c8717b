"""One layer, whichever form runs its recurrence: the same output, and the same gradient of every parameter."""

import pytest
import torch
from torch import Tensor

from deltalab.kernels import dispatch
from deltalab.mixers.gated_delta import GatedDelta
from deltalab.model.init import initialise
from tests.kernels.cases import rms_error
from tests.kernels.triton.test_kernels import DEVICE
from tests.specs import VARIANTS, trial

pytestmark = pytest.mark.filterwarnings("ignore:.*encountered in.*:RuntimeWarning")  # as in test_kernels


def results(form: str, dtype: torch.dtype, overrides: tuple[str, ...], patch: pytest.MonkeyPatch) -> dict[str, Tensor]:
    """Output and gradients of a layer with the form named."""
    spec = trial(*overrides)
    layer = GatedDelta(spec.variant, spec.model)
    initialise(layer, spec.model, 0)
    layer = layer.to(DEVICE, dtype)
    x = torch.randn(1, 20, spec.model.d_model, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    with patch.context() as patched:
        patched.setattr(dispatch, "choose", lambda q, v: (form, ""))
        y = layer(x.to(DEVICE, dtype))
    grads = torch.autograd.grad(y.square().sum(), list(layer.parameters()))
    return {"y": y.detach()} | dict(zip((name for name, _ in layer.named_parameters()), grads, strict=True))


@pytest.mark.parametrize(
    ("variant", "more"),
    [(variant, ("variant.narrowing=project",)) for variant in VARIANTS]
    + [("untied_scalar", ("variant.narrowing=pool",)), ("gated_delta_net", ("variant.narrowing=pool",))]
    + [("kda", ("variant.narrowing=project", "variant.erase_range=2", "model.value_heads=4"))],
)
def test_every_form_gives_the_same_layer(variant: str, more: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    overrides = (f"variant={variant}", *more)
    want = results("reference", torch.float64, overrides, monkeypatch)
    for form in ("reference", "chunk", "triton"):
        got = results(form, torch.float32, overrides, monkeypatch)
        for name, x in want.items():
            assert rms_error(got[name], x) <= 1e-4, f"{form}, {name}"


def test_the_kernels_activate_what_can_be_activated_inside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of a gate's size is made before them."""
    overrides = ("variant=gated_delta_net_2",)
    for name in ("activate_gates", "normalize_keys"):
        monkeypatch.setattr(dispatch, name, None)
    results("triton", torch.float32, overrides, monkeypatch)
    with pytest.raises(TypeError):
        results("chunk", torch.float32, overrides, monkeypatch)
