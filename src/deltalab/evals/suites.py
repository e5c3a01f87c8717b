"""Every suite by its name, as units to measure."""

from pathlib import Path

from deltalab.data.tokens import load_encoder
from deltalab.evals.language import language_units
from deltalab.evals.read_twice import read_twice_units
from deltalab.evals.retrieval import retrieval_units
from deltalab.evals.small import small_units
from deltalab.evals.unit import Unit
from deltalab.spec.data import DataSpec, TextSpec
from deltalab.spec.expressible import refuse_inexpressible
from deltalab.spec.suite import Suite, SuiteSpec

TEXT = {Suite.table2: language_units, Suite.table3: retrieval_units, Suite.table4: read_twice_units}
"""What measures the suites that ask for text."""


def suite_units(asked: SuiteSpec, data: DataSpec, folder: Path) -> list[Unit]:
    """What a suite measures of a trial.

    Args:
        asked: which, and how much of it.
        data: of the trial.
        folder: where its tokenizer is, if one was learnt.

    Raises:
        ConfigError: the trial's vocabulary cannot express it; see ``evals.small`` and those of ``TEXT``.
        NotFoundError: the tokenizer is not there.
    """
    refuse_inexpressible(asked, data)
    if asked.suite is Suite.small:
        return small_units(asked, data)
    assert isinstance(data, TextSpec), "anything else was refused"
    return TEXT[asked.suite](asked, load_encoder(data, folder))
