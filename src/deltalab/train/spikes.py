"""Spikes of the loss, looked for at every step on the device itself, so that nobody waits for it.

    bound = m + 5 √v                        a loss above it is a spike
    x = min(loss, bound)                    so that a spike hardly moves what the next loss is held against
    v ← v + α ((x − m)² − v)                running variance
    m ← m + α (x − m)                       running mean
    α = max(1/100, 1/n)                     n losses seen: plain means at first, then a memory of 100 steps

No loss is a spike, and none is cut, among the first 50. The state goes into checkpoints: a resumed trial counts on.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

MEMORY, FIRST, DEVIATIONS = 100, 50, 5.0


class Spikes:
    """Counts the spikes among the losses of a trial.

    Args:
        device: where the losses are.
        state: what ``state`` was when the trial was interrupted.
    """

    def __init__(self, device: torch.device, state: Sequence[float] | None = None) -> None:
        # mean, variance, losses seen, spikes among them, largest spike since the last look
        self._state = torch.tensor(list(state or [0.0] * 5), dtype=torch.float64, device=device)

    def see(self, loss: Tensor) -> None:
        """A step's loss, []."""
        mean, variance, seen, spikes, largest = self._state.unbind()
        bound = torch.where(seen < FIRST, torch.inf, mean + DEVIATIONS * variance.sqrt())
        loss = loss.double()
        spike = loss > bound
        x, weight = torch.minimum(loss, bound), (1 / (seen + 1)).clamp(min=1 / MEMORY)
        self._state = torch.stack(
            [
                mean + weight * (x - mean),
                variance + weight * ((x - mean) ** 2 - variance),
                seen + 1,
                spikes + spike,
                torch.where(spike, torch.maximum(largest, loss), largest),
            ]
        )

    @property
    def figures(self) -> Tensor:
        """Spikes so far and the largest since the last look, float64 [2], on the device."""
        return self._state[3:]

    @property
    def state(self) -> list[float]:
        """What goes on with ``Spikes(device, state)``."""
        return self._state.tolist()

    def looked(self) -> None:
        """The largest spike is known; the next look is for one after it."""
        self._state[4] = 0.0
