"""How a comparison is laid out."""

from enum import Enum


class Layout(Enum):
    """A row per cell; two factors against each other; a column per learning rate."""

    cells = "cells"
    cross = "cross"
    rates = "rates"

    @property
    def needs(self) -> str:
        """What a study lacks that has nothing for this layout, in words."""
        return {
            Layout.cells: "has no cell",
            Layout.cross: "does not cross two factors",
            Layout.rates: "has no value by learning rate (a factor that sets train.lr alone, or tune)",
        }[self]
