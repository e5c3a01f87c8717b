"""What a training step allocates, tensor by tensor: on the CPU for real, in a GPU's form without one (fake tensors)."""

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from benchmarks.allocated import Allocated
from deltalab.kernels import dispatch, short_conv
from deltalab.model.language_model import LanguageModel
from deltalab.spec.train import Precision
from deltalab.spec.trial import TrialSpec
from deltalab.train.loss import Scorer


class FusedNorm(torch.autograd.Function):
    """The RMSNorm of a GPU as far as memory goes: its input and a number per row are kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return torch.empty_like(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        return torch.empty_like(x), torch.empty_like(weight)


@contextlib.contextmanager
def gpu_form() -> Iterator[None]:
    """Inside, tensors are shapes alone, norms fused, recurrence and short convolution the Triton kernels' operators."""
    from deltalab.kernels.triton import ops

    class Operator:
        """The operator, whose results fake tensors know the shapes of, in place of launching kernels."""

        apply = staticmethod(lambda *args: ops.forward(*args))

    with pytest.MonkeyPatch.context() as patch, FakeTensorMode(allow_non_fake_inputs=True):
        patch.setattr(dispatch, "choose", lambda q, v: ("triton", "a GPU is pretended"))
        patch.setattr(ops, "EagerGatedDeltaRule", Operator)
        patch.setattr(short_conv, "_fits", lambda x, weight: True)
        patch.setattr(nn.RMSNorm, "forward", lambda self, x: FusedNorm.apply(x, self.weight))
        yield


def allocated(spec: TrialSpec, gpu: bool) -> int:
    """Peak bytes of a second training step of a trial, the optimiser's moments there."""
    with gpu_form() if gpu else contextlib.nullcontext(), Allocated() as memory:
        model = _model(spec)
        parameters = list(model.parameters())
        moments = [torch.zeros_like(p) for p in parameters for _ in range(2)]
        tokens = torch.zeros(spec.train.batch_size, spec.data.train_length, dtype=torch.int64)
        with torch.autocast("cpu", torch.bfloat16, enabled=spec.train.precision is Precision.bf16):
            loss, _ = Scorer(model)(tokens, tokens, count=True)
        (loss / tokens.numel()).backward()
        assert len(moments) == 2 * len(parameters)
        return memory.peak


def _model(spec: TrialSpec) -> LanguageModel:
    with torch.device("meta"):
        model = LanguageModel(spec.variant, spec.model, spec.train.activation_checkpointing)
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            values = torch.full(parameter.shape, 0.01)
            module._parameters[name] = nn.Parameter(values)
    return model
