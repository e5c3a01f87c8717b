"""The loss of a language model from what its head reads, without the logits of all tokens at once.

    loss = Σ_n −log softmax(W x_n)[y_n]    over the n that have a target

x [N, D] features, W [V, D] the head, y [N] targets, ``IGNORE`` where nothing is scored. Two forms, the same numbers:

    liger     liger-kernel's fused linear cross-entropy (extra `liger`): on a GPU, where it is installed
    chunks    torch's, for so many tokens at a time that their fp32 logits take ``LOGITS_BYTES``; all chunks but the
              last keep their features alone and compute their logits again going back: everywhere else

One chunk is the plain form. ``torch.nn.functional.linear_cross_entropy`` (torch 2.13) is none of them: it adds a bf16
loss up in bf16, 2 % off over 2,048 tokens, and took half as long again on a CPU (docs/guide/models.md).
"""

import importlib.util
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from deltalab.data.batch import IGNORE
from deltalab.model.language_model import LanguageModel, in_a_row
from deltalab.model.memory import tokens_at_once

RECOMPILATIONS = 8
"""Versions of a function's code that each compiled model may need (torch's default for a whole process). torch counts
them by code, which all models of a worker share: past its limit a trial of another shape would run uncompiled."""
Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


class Scorer(nn.Module):
    """A model with its loss: the module whose forward and backward pass train the model.

    Args:
        model: whose parameters are trained.
        compiled: let torch.compile fuse what comes before the head.
        dynamic: as torch.compile's; None where every batch may have another number of documents.
    """

    def __init__(self, model: LanguageModel, compiled: bool = False, dynamic: bool | None = False) -> None:
        super().__init__()
        self.model = model
        self._features = _compiled(model.features, dynamic) if compiled else model.features

    def forward(
        self, tokens: Tensor, targets: Tensor, count: bool, starts: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The summed loss, and the number of correct predictions if they are to be counted (else 0).

        Args:
            tokens: int64 [B, T].
            targets: int64 [B, T], ``IGNORE`` where nothing is scored.
            count: whether to count.
            starts: bool [B, T], where documents begin that know nothing of the ones before; None where none does.
        """
        features, weight = self._features(*in_a_row(tokens, starts)).flatten(0, 1), self.model.embedding
        loss = summed_loss(features, weight, targets.flatten())
        return loss, correct(features, weight, targets.flatten()) if count else torch.zeros_like(loss)


def _compiled(features: Callable[..., Tensor], dynamic: bool | None) -> Callable[..., Tensor]:
    """A model's function compiled, with an allowance of versions of its own."""
    import torch._dynamo.config as limits  # more than a second, which only they spend who compile

    limits.recompile_limit += RECOMPILATIONS
    return torch.compile(features, dynamic=dynamic)


def summed_loss(features: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Σ −log p(target), fp32 at least, in the form that suits the device.

    Args:
        features: [N, D].
        weight: [V, D].
        targets: int64 [N], ``IGNORE`` where nothing is scored.
    """
    return FORMS[choose_form(features.device)](features, weight, targets)


def choose_form(device: torch.device) -> str:
    """The name in ``FORMS`` of the form that runs on a device."""
    return "liger" if device.type == "cuda" and importlib.util.find_spec("liger_kernel") else "chunks"


@torch.no_grad()
def correct(features: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """How many scored targets are the most probable token; arguments as ``summed_loss``, int64 []."""
    hits = [(F.linear(x, weight).argmax(-1) == y).sum() for x, y in _chunks(features, weight, targets)]
    return torch.stack(hits).sum()


def _in_chunks(features: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    *chunks, (x, y) = _chunks(features, weight, targets)
    losses = [
        checkpoint(_plain, x, weight, y, use_reentrant=False, preserve_rng_state=False) for x, y in chunks
    ]  # going back begins with the last chunk, so its logits are the only ones kept
    return torch.stack([*losses, _plain(x, weight, y)]).sum()


def _chunks(features: Tensor, weight: Tensor, targets: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    rows = tokens_at_once(len(weight))
    return zip(features.split(rows), targets.split(rows), strict=True)


def _plain(features: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    # Each chunk casts the weight anew, so that their gradients for it are added up in its own dtype.
    kind = features.device.type
    with torch.autocast(kind, enabled=torch.is_autocast_enabled(kind), cache_enabled=False):
        logits = F.linear(features, weight)
    logits = logits.float() if logits.itemsize < 4 else logits
    return F.cross_entropy(logits, targets, ignore_index=IGNORE, reduction="sum")


def _liger(features: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    from liger_kernel.transformers.fused_linear_cross_entropy import LigerFusedLinearCrossEntropyLoss

    kind = features.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else features.dtype
    loss = LigerFusedLinearCrossEntropyLoss(ignore_index=IGNORE, reduction="sum", accum_dtype=torch.float32)
    return loss(weight.to(dtype), features.to(dtype), targets)


FORMS: dict[str, Loss] = {"liger": _liger, "chunks": _in_chunks}
