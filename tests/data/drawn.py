"""The held-out sequences of a drawn task, for its tests."""

from deltalab.data.batch import Batch, make_task
from deltalab.spec.data import DataSpec


def held_out(spec: DataSpec, sequences: int) -> Batch:
    """All of them in one batch."""
    (batch,) = make_task(spec, 0).eval_batches(sequences, sequences)
    return batch
