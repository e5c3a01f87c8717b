"""A needle in noise, byte by byte: letters are given numbers among random bytes, and one of them is asked for.

Two needles of two digits, ``length`` 24; a target is the byte that follows:

    token     w e Q = 7 1 ; p   k d x B = 4 0 ; r i a o t s Q = 7
    target    · · · · · · · · · · · · · · · · · · · · · · · 7 1

Noise is lower-case letters and spaces. Needles lie anywhere before the question, none over another; letters are
distinct, digits uniform. The depth of the needle is that of its first byte: 0 % at the beginning, 100 % right before
the question.
"""

import numpy as np
from numpy.typing import NDArray

from deltalab.data.batch import IGNORE, Batch
from deltalab.data.generated import GeneratedTask
from deltalab.data.recall import draw_distinct
from deltalab.spec.data import DEPTHS, NeedleSpec, range_name

NOISE = np.frombuffer(b"abcdefghijklmnopqrstuvwxyz ", dtype=np.uint8).astype(np.int64)
EQUALS, END = b"=;"


class Needle(GeneratedTask[NeedleSpec]):
    """Needles in noise; the digits of the answer are scored, slices are the depths of the needle asked for.

    Args:
        spec: needles, digits and lengths.
        seed: of the training sequences.
    """

    def draw(self, rng: np.random.Generator, rows: int, length: int) -> Batch:
        """``rows`` sequences of noise with needles, and a question."""
        spec, size = self.spec, self.spec.needle_length
        tokens = NOISE[rng.integers(len(NOISE), size=(rows, length))]
        targets = np.full((rows, length), IGNORE, dtype=np.int64)
        written = self._needles(rng, rows)
        room = length - spec.question_length - spec.needles * size
        starts = np.sort(rng.integers(room + 1, size=(rows, spec.needles)), axis=1) + size * np.arange(spec.needles)
        for needle in range(spec.needles):
            np.put_along_axis(tokens, starts[:, needle, None] + np.arange(size), written[:, needle], axis=1)
        asked = rng.integers(spec.needles, size=(rows, 1))
        answer = np.take_along_axis(written, asked[:, :, None], axis=1)[:, 0]
        tokens[:, length - spec.question_length :] = answer[:, : spec.question_length]
        targets[:, length - spec.digits :] = answer[:, 2:-1]
        depth = np.take_along_axis(starts, asked, axis=1) / max(1, length - spec.question_length - size)
        return Batch(tokens=tokens, targets=targets, slices=_by_depth(targets != IGNORE, 100 * depth))

    def _needles(self, rng: np.random.Generator, rows: int) -> NDArray[np.int64]:
        """int64 [rows, needles, size]: ``K=1234;`` in bytes."""
        spec = self.spec
        written = np.empty((rows, spec.needles, spec.needle_length), dtype=np.int64)
        written[..., 0] = ord("A") + draw_distinct(rng, rows, 26, spec.needles)
        written[..., 1] = EQUALS
        written[..., 2:-1] = ord("0") + rng.integers(10, size=(rows, spec.needles, spec.digits))
        written[..., -1] = END
        return written


def _by_depth(scored: NDArray[np.bool_], percent: NDArray[np.float64]) -> dict[str, NDArray[np.bool_]]:
    """The scored positions of the rows whose depth, [rows, 1], is in each range."""
    slices = {}
    for first, last in DEPTHS:
        inside = (first <= percent) & ((percent < last) | (last == 100))
        slices[f"depth/{range_name(first, last)}"] = scored & inside
    return slices
