"""A task at a length: the least that is measured, journalled and never measured again."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from deltalab.model.language_model import LanguageModel


@dataclass(frozen=True, kw_only=True)
class Unit:
    """What can be measured.

    Attributes:
        name: beginning of its metrics' names, e.g. ``table3/niah_single_2/1024/help-1a2b3c4d``.
        identity: task, version, length, number of samples and whatever else decides the numbers but the model.
        run: model → metrics, ``accuracy`` and ``stderr`` among them but where a task has perplexities only; and
            ``samples`` where the identity leaves open how many there are (None).
    """

    name: str
    identity: dict[str, Any]
    run: Callable[[LanguageModel], dict[str, float]]
