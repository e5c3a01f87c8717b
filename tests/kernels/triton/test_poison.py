"""What nobody has written never reaches a result: scratch and results before they are filled, memory around inputs.

Scratch is full of NaN, and inputs and cotangents lie between NaN, which a row or a channel that a mask forgot would
read: sequences end inside of a chunk, widths inside of a block. Results must be those of clean memory, bit for bit.
``recompute`` runs the forward pass in both of its ways.
"""

import pytest
import torch

from deltalab.kernels.triton.api import gated_delta_rule
from tests.kernels.cases import Case, between_nans, make_case, poisoned_memory, run
from tests.kernels.triton.stepping import Problem, empty_cache, step
from tests.kernels.triton.stepping import on_device as layer_on_device
from tests.kernels.triton.test_kernels import SMALL, on_device

pytestmark = pytest.mark.filterwarnings("ignore:.*encountered in.*:RuntimeWarning")  # as in test_kernels
VARIANTS = ("delta_net", "gated_delta_net", "gated_delta_net_2", "gated_linear_attention_write")
LENGTHS = (None, (3, 64, 1, 65))


def assert_clean(case: Case) -> None:
    clean = run(gated_delta_rule, case)
    assert all(x.isfinite().all() for x in clean.values())
    with poisoned_memory():
        poisoned = run(gated_delta_rule, case, place=between_nans, recompute=True)
    for name, x in poisoned.items():
        assert torch.equal(x, clean[name]), name


@pytest.mark.parametrize(
    ("variant", "lengths", "states", "decay"),
    [
        ("delta_net", None, False, "none"),
        ("gated_delta_net", (3, 64, 1, 7), False, "mild"),
        ("gated_delta_net_2", (3, 64, 1, 7), True, "mild"),
        ("gated_delta_net_2", None, False, "mixed tokens"),
        ("gated_linear_attention_write", None, True, "mild"),
    ],
)
def test_kernels(variant: str, lengths: tuple[int, ...] | None, states: bool, decay: str) -> None:
    case = make_case(variant, shape=SMALL, lengths=lengths, states=states, decay=decay)
    assert_clean(on_device(case, torch.float32))


def test_a_decode_step() -> None:
    problem = Problem()
    x = layer_on_device(problem.inputs())
    cache, other = empty_cache(problem, x), empty_cache(problem, x)
    clean = [step(problem, x, t, cache) for t in range(2)]
    with poisoned_memory():
        around = {name: between_nans(leaf) for name, leaf in x.items()}
        poisoned = [step(problem, around, t, other) for t in range(2)]
    assert all(torch.equal(one, two) for one, two in zip(clean, poisoned, strict=True))
    assert torch.equal(cache.state, other.state)


def test_the_margin_shows_who_reads_it() -> None:
    x = between_nans(torch.ones(2, 3))
    assert torch.equal(x, torch.ones(2, 3))
    assert x.as_strided((2, 4), (3, 1))[-1, -1].isnan()


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("decay", ["mild", "mixed tokens"])
@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_gpu_kernels(variant: str, lengths: tuple[int, ...] | None, decay: str, dtype: torch.dtype) -> None:
    for widths in ((128, 128), (80, 72)):
        case = make_case(variant, shape=(2, 130, 2, *widths), lengths=lengths, decay=decay, group=2)
        assert_clean(on_device(case, dtype))
