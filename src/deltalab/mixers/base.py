"""What every token mixer is: a module from the residual stream to itself, in parallel or token by token."""

from abc import abstractmethod

from torch import Tensor, nn

Cache = dict[str, Tensor]
"""What a mixer keeps of each sequence between tokens: named tensors, the sequences first, changed in place."""


class TokenMixer(nn.Module):
    """Mixes tokens of a sequence causally.

    Abstract: a mixer is a final class below this one. What a mixer costs (parameters, state, FLOPs per token) is
    counted from its spec in ``model.accounting``, which a test holds against the module itself.

    Attributes:
        fp32: names of the parameters that stay in fp32 where a model's weights are turned to a shorter type.
    """

    fp32: tuple[str, ...] = ()

    @abstractmethod
    def forward(self, x_BTD: Tensor, cu_seqlens: Tensor | None = None, cache: Cache | None = None) -> Tensor:
        """Mix whole sequences.

        Args:
            x_BTD: normalised residual stream.
            cu_seqlens: [N + 1] offsets of packed sequences (B must be 1); nothing crosses a boundary.
            cache: a fresh one of ``new_cache`` for as many sequences (B, or N where packed), filled with what
                ``step`` needs after each one's last token.

        Returns:
            [B, T, D], to be added to the residual stream.
        """

    @abstractmethod
    def new_cache(self, batch: int, length: int) -> Cache:
        """The cache of ``batch`` sequences without a token, on the parameters' device.

        Args:
            batch: sequences.
            length: most tokens that a sequence will have; only attention over all of the past grows with it.
        """

    @abstractmethod
    def step(self, x_BD: Tensor, cache: Cache) -> Tensor:
        """The next token of each sequence, [B, D] → [B, D]; ``cache`` moves on by it, in place."""
