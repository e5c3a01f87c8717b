"""Boundaries of packed sequences as numbers."""

import torch

from deltalab.kernels.triton.table import bounds_of


def test_boundaries_are_read_again_where_they_changed() -> None:
    bounds = torch.tensor([0, 3, 9])
    assert bounds_of(bounds) == bounds_of(bounds) == (0, 3, 9)
    bounds[1] = 4
    assert bounds_of(bounds) == (0, 4, 9)


@torch.inference_mode()
def test_boundaries_that_inference_mode_made() -> None:
    """Such tensors have no version, by which others are known again."""
    bounds = torch.tensor([0, 3, 9])
    assert bounds_of(bounds) == (0, 3, 9)
    bounds[1] = 4
    assert bounds_of(bounds) == (0, 4, 9)
