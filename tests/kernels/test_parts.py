"""The parts of the chunkwise form, and the yardstick it is timed against."""

import pytest
import torch

from benchmarks import plain_chunk
from deltalab.kernels.chunk import gated_delta_rule
from deltalab.kernels.layout import Packed, lay_out
from deltalab.kernels.triangular import unit_lower_inverse
from tests.kernels.cases import assert_close, make_case, run


@pytest.mark.parametrize("size", [1, 2, 8, 16, 32, 64])
def test_inverse_reads_only_below_the_diagonal(size: int):
    A = 0.2 * torch.randn(3, 2, size, size, dtype=torch.float64)[:, 0].tril(-1)
    poisoned = A.masked_fill(torch.ones(size, size, dtype=torch.bool).triu(), float("nan"))
    eye = torch.eye(size, dtype=torch.float64)
    torch.testing.assert_close(unit_lower_inverse(poisoned) @ (eye + A), eye.expand_as(A), rtol=0, atol=1e-10)


def test_inverse_of_identical_keys_and_a_full_erase():
    """A_ij = 2 below the diagonal: the powers of A reach 1e30, T = (I + A)⁻¹ stays at ±2."""
    A = torch.full((1, 64, 64), 2.0).tril(-1)
    sign = torch.arange(64).unsqueeze(-1) - torch.arange(64)
    wanted = torch.where(sign > 0, 2.0 * (-1.0) ** sign, 0.0) + torch.eye(64)
    torch.testing.assert_close(unit_lower_inverse(A)[0], wanted)


@pytest.mark.parametrize("lengths", [None, (5, 12, 1, 8)])
@pytest.mark.parametrize("time", [8, 26])
def test_tokens_come_back_from_their_chunks(lengths: tuple[int, ...] | None, time: int):
    x = torch.randn(2 if lengths is None else 1, time if lengths is None else sum(lengths), 3, 2)
    bounds = None if lengths is None else (0, *torch.tensor(lengths).cumsum(0).tolist())
    layout = lay_out(x, bounds, 4)
    chunks = layout.to_chunks(x)
    assert chunks.shape == (layout.rows, 4, 2)
    torch.testing.assert_close(chunks.sum(), x.sum())
    assert torch.equal(layout.to_tokens(chunks), x)
    state = torch.randn(len(x) if lengths is None else len(lengths), 6, 2, 5)
    assert torch.equal(layout.state_out(layout.state_in(state), 2), state)


def test_a_step_holds_the_sequences_that_go_on():
    layout = lay_out(torch.zeros(1, 26, 3, 2), (0, 5, 17, 18, 26), 4)
    assert isinstance(layout, Packed)
    assert layout.sizes == (12, 9, 3)
    assert not layout.even


@pytest.mark.parametrize("decay", ["mild", "mixed tokens"])
@pytest.mark.parametrize("variant", ["delta_net", "gated_delta_net", "gated_delta_net_2"])
@pytest.mark.parametrize("time", [20, 70])
def test_the_benchmark_compares_like_with_like(variant: str, decay: str, time: int):
    case = make_case(variant, shape=(2, time, 2, 6, 5), states=False, decay=decay)

    def plain(*inputs, **_):
        return plain_chunk.gated_delta_rule(*inputs), None

    assert_close(run(plain, case), run(gated_delta_rule, case), 1e-10)
