"""Registers: numbers under names, which statements set or change; the new number is asked for after every change.

First every register is set once, in random order. Each further statement names a register, uniformly drawn, and moves
it to another number, uniformly drawn: with probability ``resets`` by that number, otherwise by the difference. Two
registers (tokens 0 and 1), four numbers (2 to 5 set to 0 to 3; 6 to 11 change by -3, -2, -1, +1, +2, +3):

    position  1  2  3  4  5  6  7  8  9 10 11 12
    token     1  4  0  2  1  9  0 11  1  3  1 10
    target    ·  ·  ·  ·  ·  5  ·  5  ·  ·  ·  5
    meaning   B=2   A=0   B+1   A+3   B=1   B+2
    changes                  1     1           1

To set is to erase and write; to change is to write and erase nothing, where a gate that is tied to both has to be small
and the value large.
"""

import numpy as np

from deltalab.data.batch import IGNORE, Batch
from deltalab.data.generated import GeneratedTask
from deltalab.data.recall import draw_distinct
from deltalab.spec.data import RegistersSpec, range_name


class Registers(GeneratedTask[RegistersSpec]):
    """Registers; changes are scored, slices are ranges of how many changes a register has seen since it was set.

    Args:
        spec: registers, numbers, share of resets and lengths.
        seed: of the training sequences.
    """

    def draw(self, rng: np.random.Generator, rows: int, length: int) -> Batch:
        """``rows`` sequences of statements; an odd length ends with a register's name."""
        registers, values, statements = self.spec.registers, self.spec.values, (length + 1) // 2
        names = rng.integers(registers, size=(rows, statements))
        names[:, :registers] = draw_distinct(rng, rows, registers, registers)
        steps = rng.integers(1, values, size=(rows, statements))
        steps[:, :registers] = rng.integers(values, size=(rows, registers))
        sets = rng.random((rows, statements)) < self.spec.resets
        sets[:, :registers] = True

        held, changed = np.zeros((2, rows, registers), dtype=np.int64)
        old, new, changes = np.empty((3, rows, statements), dtype=np.int64)
        for i in range(statements):
            named = (np.arange(rows), names[:, i])
            old[:, i] = held[named]
            held[named] = new[:, i] = (old[:, i] + steps[:, i]) % values
            changed[named] = changes[:, i] = np.where(sets[:, i], 0, changed[named] + 1)

        number, difference = registers + new, new - old
        change = registers + values + difference + values - 1 - (difference > 0)  # no token for a difference of 0
        tokens = np.stack([names, np.where(sets, number, change)], axis=2).reshape(rows, -1)[:, :length]
        targets = np.full((rows, length), IGNORE, dtype=np.int64)
        targets[:, 1::2] = np.where(sets, IGNORE, number)[:, : length // 2]
        age = np.zeros((rows, length), dtype=np.int64)
        age[:, 1::2] = changes[:, : length // 2]
        slices = {
            f"changes/{range_name(first, last)}": (first <= age) & (age <= last)
            for first, last in self.spec.change_ranges(length)
        }
        return Batch(tokens=tokens, targets=targets, slices=slices)
