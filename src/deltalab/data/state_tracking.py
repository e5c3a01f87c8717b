"""State tracking: the word problem of a finite group.

    target_t = x_1 · x_2 · … · x_t          x_t drawn uniformly from the group

A token is an element's index, 0 the identity; elements are permutations in lexicographic order and p · q applies p
first. Z2 is parity. One sequence of S3, where 1 and 2 are transpositions and 3 is a rotation:

    position  1  2  3  4  5
    token     1  1  2  3  0
    target    1  0  2  5  5
"""

from itertools import permutations

import numpy as np
from numpy.typing import NDArray

from deltalab.data.batch import Batch
from deltalab.data.generated import GeneratedTask
from deltalab.spec.data import StateTrackingSpec, range_name
from deltalab.spec.groups import Group, generated_group


class StateTracking(GeneratedTask[StateTrackingSpec]):
    """Word problem of ``spec.group`` or ``spec.generators``; every position is scored, slices are ranges of positions.

    Args:
        spec: group and lengths.
        seed: of the training sequences.
    """

    def __init__(self, spec: StateTrackingSpec, seed: int) -> None:
        super().__init__(spec, seed)
        generators = spec.generators
        self._table = product_table(
            group_elements(spec.group) if generators is None else np.array(generated_group(generators))
        )

    def draw(self, rng: np.random.Generator, rows: int, length: int) -> Batch:
        """``rows`` words of ``length`` elements and their running products."""
        tokens = rng.integers(self.vocab_size, size=(rows, length))
        position = np.arange(1, length + 1)
        slices = {
            range_name(first, last): np.broadcast_to((first <= position) & (position <= last), tokens.shape)
            for first, last in self.spec.position_ranges(length)
        }
        return Batch(tokens=tokens, targets=running_products(tokens, self._table), slices=slices)


def running_products(elements: NDArray[np.int64], table: NDArray[np.int64]) -> NDArray[np.int64]:
    """Products of the first 1, 2, …, T elements, int64 [B, T] to the same.

    Doubling: after k rounds a position holds the product of its last 2^k elements. Right because products associate.
    """
    products = elements.copy()
    reach, length = 1, elements.shape[1]
    while reach < length:
        products[:, reach:] = table[products[:, :-reach], products[:, reach:]]
        reach *= 2
    return products


def cayley_table(group: Group) -> NDArray[np.int64]:
    """int64 [order, order]: index of p · q (p first, then q) for the indices of p and q."""
    return product_table(group_elements(group))


def product_table(elements: NDArray[np.int64]) -> NDArray[np.int64]:
    """``cayley_table`` of the permutations in [order, degree]."""
    index = {tuple(element): i for i, element in enumerate(elements.tolist())}
    composed = [elements[:, p].tolist() for p in elements]  # [p][q][point]: where q takes what p made of the point
    return np.array([[index[tuple(product)] for product in row] for row in composed], dtype=np.int64)


def group_elements(group: Group) -> NDArray[np.int64]:
    """int64 [order, degree]: each element as the images of its points, the identity first."""
    points = range(group.degree)
    if group.value.startswith("Z"):
        return np.array([[(point + turn) % group.degree for point in points] for turn in points])
    elements = list(permutations(points))
    if group.value.startswith("A"):
        elements = [p for p in elements if _is_even(p)]
    return np.array(elements)


def _is_even(permutation: tuple[int, ...]) -> bool:
    inversions = sum(a > b for i, a in enumerate(permutation) for b in permutation[i + 1 :])
    return inversions % 2 == 0
