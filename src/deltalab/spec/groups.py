"""Finite groups whose word problem can be asked: those with a name, and any that permutations generate."""

import math
from collections.abc import Sequence
from enum import Enum


class Group(Enum):
    """Finite groups whose word problem can be asked: cyclic, symmetric and alternating."""

    Z2 = "Z2"
    Z3 = "Z3"
    Z5 = "Z5"
    Z60 = "Z60"
    S3 = "S3"
    S4 = "S4"
    S5 = "S5"
    A5 = "A5"

    @property
    def degree(self) -> int:
        """n of Zn, Sn, An: the number of points the group permutes."""
        return int(self.value[1:])

    @property
    def order(self) -> int:
        """Number of elements: n for Zn, n! for Sn, n!/2 for An."""
        symmetric = math.factorial(self.degree)
        return {"Z": self.degree, "S": symmetric, "A": symmetric // 2}[self.value[0]]


MAX_ORDER = 1000
"""Elements of the largest group that generators may make: its table is laid out whole."""

Permutation = tuple[int, ...]


def generated_group(generators: Sequence[Sequence[int]]) -> list[Permutation]:
    """Every product of the generators in lexicographic order, the identity first; stops soon after ``MAX_ORDER``.

    Args:
        generators: permutations as the images of the points 0 to n − 1.
    """
    identity = tuple(range(len(generators[0])))
    found, fresh = {identity}, [identity]
    while fresh and len(found) <= MAX_ORDER:
        products = {tuple(generator[point] for point in element) for element in fresh for generator in generators}
        fresh = list(products - found)
        found |= products
    return sorted(found)
