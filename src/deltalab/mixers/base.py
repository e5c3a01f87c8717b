"""What every token mixer is: a module from the residual stream to the residual stream."""

from abc import abstractmethod

from torch import Tensor, nn


class TokenMixer(nn.Module):
    """Mixes tokens of a sequence causally.

    Abstract: a mixer is a final class below this one. What a mixer costs (parameters, state, FLOPs per token) is
    counted from its spec in ``model.accounting``, which a test holds against the module itself.
    """

    @abstractmethod
    def forward(self, x_BTD: Tensor, cu_seqlens: Tensor | None = None) -> Tensor:
        """Mix.

        Args:
            x_BTD: normalised residual stream.
            cu_seqlens: [N + 1] offsets of packed sequences (B must be 1); nothing crosses a boundary.

        Returns:
            [B, T, D], to be added to the residual stream.
        """
