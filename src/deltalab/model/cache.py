"""What a model keeps of its sequences between tokens: the caches of its mixers."""

from dataclasses import dataclass

from torch import Tensor

from deltalab.mixers.base import Cache


@dataclass(kw_only=True)
class ModelCache:
    """Caches of all blocks, changed in place by ``LanguageModel.step``.

    Attributes:
        layers: one per block.
        length: most tokens that a sequence can have before the caches of full attention are enlarged.
        tokens: tokens of the longest sequence so far.
    """

    layers: list[Cache]
    length: int
    tokens: int = 0

    @property
    def bytes(self) -> int:
        """Memory of all tensors."""
        return sum(tensor.nbytes for layer in self.layers for tensor in layer.values())

    def select(self, sequences: Tensor) -> None:
        """Keep these sequences, int64 [M], in this order; one may be named several times."""
        for layer in self.layers:
            for name, tensor in layer.items():
                layer[name] = tensor.index_select(0, sequences.to(tensor.device))
