"""The decode step through shared memory against the layer in fp64, on a Hopper or as Python on a CPU (``OnCpu``)."""

from typing import Any

import pytest
import torch

from deltalab.kernels.triton import decode
from tests.kernels.cases import rms_error
from tests.kernels.triton.gluon import OnCpu
from tests.kernels.triton.stepping import (
    DEVICE,
    KINDS,
    Problem,
    assert_matches,
    decoded,
    empty_cache,
    layer,
    on_device,
    strong_and_missing_decay,
)

pytestmark = [pytest.mark.gpu] if DEVICE == "cuda" else []
WIDE: dict[str, Any] = {"width": 128, "values": 128, "time": 3}


@pytest.fixture(autouse=True)
def kernels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the kernels that were chosen, as on a Hopper."""
    if DEVICE == "cuda":
        request.getfixturevalue("hopper")
    else:
        monkeypatch.setattr(decode, "shared_step", OnCpu(decode.shared_step, {}))
        monkeypatch.setattr(decode, "has_warpgroup_products", lambda device: True)
    chosen: list[str] = []
    start = decode._launch

    def launch(kernel: Any, *args: Any, **constants: Any) -> None:
        chosen.append("step" if kernel is decode.step else "shared step")
        start(kernel, *args, **constants)

    monkeypatch.setattr(decode, "_launch", launch)
    return chosen


@pytest.mark.parametrize("raw", [True, False])
@pytest.mark.parametrize("write", KINDS)
@pytest.mark.parametrize("erase", KINDS)
@pytest.mark.parametrize("decay", KINDS)
def test_every_variant(decay: str, erase: str, write: str, raw: bool, kernels: list[str]) -> None:
    assert_matches(Problem(kinds=(decay, erase, write), raw=raw, **WIDE))
    assert set(kernels) == {"shared step"}


@pytest.mark.parametrize("decay", KINDS)
@pytest.mark.parametrize("taps", [0, 4])
def test_bf16_state(decay: str, taps: int) -> None:
    """Rounded once a token, by 2^-9 of itself at most."""
    assert_matches(Problem(kinds=(decay, "channel", "channel"), taps=taps, **WIDE), 1e-2, state_dtype=torch.bfloat16)


@pytest.mark.parametrize("state_dtype", [torch.float32, torch.bfloat16])
def test_one_token_is_read_as_exactly_as_fp32_is(state_dtype: torch.dtype) -> None:
    """What is read of a state in bf16 is as exact as of one in fp32: its factors are not rounded to bf16."""
    problem = Problem(width=128, values=128, time=1)
    given = on_device(problem.inputs())
    given["state"] = given["state"].to(state_dtype)
    got = decoded(problem, given, empty_cache(problem, given))
    assert rms_error(got, layer(problem, {name: x.double() for name, x in given.items()})[0]) < 1e-5


@pytest.mark.parametrize(("taps", "activate"), [(0, False), (1, True), (2, True), (4, False), (7, True)])
def test_any_width_of_the_convolution(taps: int, activate: bool) -> None:
    assert_matches(Problem(taps=taps, activate=activate, **WIDE))


@pytest.mark.parametrize(("batch", "heads", "group"), [(1, 1, 1), (1, 1, 4), (3, 3, 1), (2, 2, 3)])
def test_grouped_heads_and_batches(batch: int, heads: int, group: int) -> None:
    assert_matches(Problem(batch=batch, heads=heads, group=group, **WIDE))


@pytest.mark.parametrize("state_dtype", [torch.float32, torch.bfloat16])
def test_strong_and_missing_decay_stay_finite(state_dtype: torch.dtype) -> None:
    problem = Problem(raw=False, **WIDE)
    bound = 1e-5 if state_dtype is torch.float32 else 1e-2
    assert_matches(problem, bound, state_dtype=state_dtype, inputs=strong_and_missing_decay(problem))


@pytest.mark.parametrize(("width", "values", "shift"), [(64, 128, 0), (128, 64, 0), (128, 128, 1)])
def test_other_widths_and_states_that_are_not_aligned_go_the_other_way(
    width: int, values: int, shift: int, kernels: list[str]
) -> None:
    problem = Problem(width=width, values=values, time=2)
    given = on_device(problem.inputs())
    cache = empty_cache(problem, given)
    room = given["state"].new_empty(given["state"].numel() + shift)
    cache.state = room[shift:].view(given["state"].shape).copy_(given["state"])
    want, state = layer(problem, {name: x.double() for name, x in given.items()})
    assert rms_error(decoded(problem, given, cache), want) < 1e-5
    assert rms_error(cache.state, state) < 1e-5
    assert set(kernels) == {"step"}
