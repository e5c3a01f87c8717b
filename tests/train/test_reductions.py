"""The lattice's reductions through whole training runs: the narrower variant is the wider one with equal gates."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from deltalab.kernels.activations import activate_gates
from deltalab.mixers.gates import Gates, GateValues, RawGates
from deltalab.spec.launcher import Device
from deltalab.track import journal
from deltalab.train.trial import run_trial
from tests.specs import trial

Widen = Callable[[GateValues], GateValues]
CHANNELS = 16


def over_channels(gate: torch.Tensor | None) -> torch.Tensor:
    assert gate is not None
    return gate.unsqueeze(-1).expand(*gate.shape, CHANNELS)


WIDENED: dict[str, Widen] = {
    "kda": lambda x: GateValues(x.g, over_channels(x.b), over_channels(x.w)),  # → GDN-2 with b = β1, w = β1
    "gated_delta_net": lambda x: x._replace(g=over_channels(x.g)),  # → KDA with g = g1
    "delta_net": lambda x: x._replace(g=torch.zeros_like(over_channels(x.b)[..., 0])),  # → GDN with g = 0
    "gated_linear_attention": lambda x: x._replace(b=torch.zeros_like(x.g)),  # → untied with b = 0
}


@pytest.mark.parametrize("variant", WIDENED)
def test_losses_of_a_training_run_are_equal(variant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    spec = trial(f"variant={variant}", "train.steps=20", "train.log_every=1")
    run_trial(spec, tmp_path / "narrow", Device.cpu)
    widen, widened = WIDENED[variant], []

    def raw(self: Gates, x: torch.Tensor) -> RawGates:
        widened.append(widen(GateValues(*activate_gates(**narrow(self, x)._asdict()))))
        return RawGates(*widened[-1], decay=None, erase_range=0.0, write_sigmoid=False)

    narrow = Gates.raw
    monkeypatch.setattr(Gates, "raw", raw)
    run_trial(spec, tmp_path / "wide", Device.cpu)
    assert widened
    one, other = (journal.read(tmp_path / name).metrics["train/loss"] for name in ("narrow", "wide"))
    assert one[20] < one[1]
    assert one == pytest.approx(other, rel=5e-4)
