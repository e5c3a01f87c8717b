"""Where tokens are in sequences that are packed one behind the other along time."""

import torch
from torch import Tensor


def tokens_before(cu_seqlens: Tensor, length: int) -> Tensor:
    """[T] tokens of the same packed sequence that precede each position.

    Args:
        cu_seqlens: [N + 1] offsets of the sequences, from 0 to T.
        length: T.
    """
    position = torch.arange(length, device=cu_seqlens.device)
    sequence = torch.searchsorted(cu_seqlens, position, right=True) - 1
    return position - cu_seqlens[sequence]
