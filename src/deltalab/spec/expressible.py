"""Which suites and tasks a trial's tokens can express; asked before anything is trained or loaded. No torch."""

from deltalab.errors import ConfigError
from deltalab.spec.data import (
    DataSpec,
    Group,
    NeedleSpec,
    RecallSpec,
    RegistersSpec,
    SelectiveCopySpec,
    StateTrackingSpec,
    TextSpec,
    Tokenizer,
)
from deltalab.spec.suite import Suite, SuiteSpec

GROUPS = {Group.Z2: "parity"}
"""Groups whose word problem has a name of its own."""
MQAR = ("mqar", "mqar_overwrite", "mqar_distractors")
SMALL = (
    *MQAR,
    "selective_copy",
    "registers",
    "needle",
    *(GROUPS.get(group, group.value.lower()) for group in Group),
    "group",
)
"""Every task of the small suite; ``group`` is one given by generators."""


def refuse_inexpressible(asked: SuiteSpec, data: DataSpec) -> None:
    """Refuse a suite, or a task of the small one, that means nothing in the trial's tokens.

    Raises:
        ConfigError: what was asked for, and what could be.
    """
    if asked.suite is not Suite.small:
        if not isinstance(data, TextSpec):
            said = f"{Suite.small.value}: the trial's vocabulary ({data.vocab_size} tokens of a drawn task) is no text"
            raise ConfigError("suite", asked.suite.value, said)
        return
    known = small_tasks(data)
    for name in asked.tasks(SMALL, known):
        if name not in known:
            said = f"{', '.join(known) or 'none'}: the trial's vocabulary cannot express others"
            raise ConfigError("task", name, said)
    if not known:
        said = "another: the trial's vocabulary (a BPE) cannot express any of its tasks"
        raise ConfigError("suite", asked.suite.value, said)


def small_tasks(data: DataSpec) -> tuple[str, ...]:
    """The tasks of the small suite whose tokens mean what the trial was trained on."""
    if isinstance(data, RecallSpec):
        return MQAR if spare_keys(data) else MQAR[:2]
    if isinstance(data, StateTrackingSpec):
        named = GROUPS.get(data.group, data.group.value.lower())
        return (named if data.generators is None else "group",)
    if isinstance(data, SelectiveCopySpec):
        return ("selective_copy",)
    if isinstance(data, RegistersSpec):
        return ("registers",)
    if isinstance(data, NeedleSpec) or (isinstance(data, TextSpec) and data.tokenizer is Tokenizer.bytes):
        return ("needle",)
    return ()


def spare_keys(data: RecallSpec) -> int:
    """Keys that the vocabulary has besides those of the pairs."""
    return data.vocab // 2 - 1 - data.pairs
