"""Selective copying (arXiv 2312.00752): keep the symbols, pass over the blanks, repeat the symbols in order at the end.

Three copies, vocab 6 (symbols 2-5), length 10:

    position  1  2  3  4  5  6  7  8  9 10
    token     0  4  0  0  2  0  5  1  1  1
    target    ·  ·  ·  ·  ·  ·  ·  4  2  5

Where the symbols lie before the questions is uniform.
"""

import numpy as np

from deltalab.data.batch import IGNORE, Batch
from deltalab.data.generated import GeneratedTask
from deltalab.data.recall import draw_distinct
from deltalab.spec.data import SelectiveCopySpec, doubling_ranges, range_name

ASK, FIRST_SYMBOL = 1, 2


class SelectiveCopy(GeneratedTask[SelectiveCopySpec]):
    """Selective copying; only the questions are scored, slices are ranges of a symbol's place in the order.

    Args:
        spec: symbols, vocabulary and lengths.
        seed: of the training sequences.
    """

    def draw(self, rng: np.random.Generator, rows: int, length: int) -> Batch:
        """``rows`` sequences of strewn symbols and questions."""
        copies = self.spec.copies
        tokens = np.zeros((rows, length), dtype=np.int64)
        targets = np.full((rows, length), IGNORE, dtype=np.int64)
        places = np.sort(draw_distinct(rng, rows, length - copies, copies), axis=1)
        symbols = rng.integers(FIRST_SYMBOL, self.spec.vocab, size=(rows, copies))
        np.put_along_axis(tokens, places, symbols, axis=1)
        tokens[:, length - copies :] = ASK
        targets[:, length - copies :] = symbols
        order = np.arange(length) - (length - copies) + 1
        slices = {
            f"order/{range_name(first, last)}": np.broadcast_to((first <= order) & (order <= last), tokens.shape)
            for first, last in doubling_ranges(copies)
        }
        return Batch(tokens=tokens, targets=targets, slices=slices)
