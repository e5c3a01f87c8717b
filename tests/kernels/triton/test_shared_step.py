"""The decode step through shared memory against the layer in fp64: in Triton's stead as Python on a CPU, or on a Hopper."""

import pytest
import torch

from deltalab.kernels.triton import decode
from tests.kernels.triton.gluon import OnCpu
from tests.kernels.triton.stepping import DEVICE, KINDS, Problem, assert_matches

WIDE = {"width": 128, "values": 128, "time": 3}


@pytest.fixture(autouse=True)
def through_shared_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode, "FILLING", 0)
    if DEVICE == "cpu":
        monkeypatch.setattr(decode, "shared_step", OnCpu(decode.shared_step, {}))
        monkeypatch.setattr(decode, "has_warpgroup_products", lambda device: True)


@pytest.mark.parametrize("raw", [True, False])
@pytest.mark.parametrize("write", KINDS)
@pytest.mark.parametrize("erase", KINDS)
@pytest.mark.parametrize("decay", KINDS)
def test_every_variant(decay: str, erase: str, write: str, raw: bool) -> None:
    assert_matches(Problem(kinds=(decay, erase, write), raw=raw, **WIDE))
