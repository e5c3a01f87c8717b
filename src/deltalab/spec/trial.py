"""A trial: one cell × seed, fully resolved. Its id is the hash of what it computes, not of how it is run."""

import dataclasses
import hashlib
import json
import re
from dataclasses import dataclass
from enum import Enum
from types import NoneType, UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from deltalab.errors import ConfigError
from deltalab.spec.data import (
    LOCATING,
    DataSpec,
    NeedleSpec,
    RecallSpec,
    RegistersSpec,
    SelectiveCopySpec,
    StateTrackingSpec,
    TextSpec,
)
from deltalab.spec.eval import EvalSpec
from deltalab.spec.expressible import refuse_inexpressible
from deltalab.spec.model import BUDGETING, ModelSpec
from deltalab.spec.suite import suite_identity
from deltalab.spec.train import PLACING, TrainSpec
from deltalab.spec.variant import Layer, VariantSpec

T = TypeVar("T")

DATA_SPECS: dict[str, type[DataSpec]] = {
    "state_tracking": StateTrackingSpec,
    "recall": RecallSpec,
    "selective_copy": SelectiveCopySpec,
    "registers": RegistersSpec,
    "needle": NeedleSpec,
    "text": TextSpec,
}
"""Task name (as written in a frozen config) to the spec of its data."""


@dataclass(frozen=True, kw_only=True)
class TrialSpec:
    """Everything that decides a trial's numbers. No paths, no launcher, no tracking."""

    seed: int
    variant: VariantSpec
    model: ModelSpec
    data: DataSpec
    train: TrainSpec
    eval: EvalSpec

    def __post_init__(self) -> None:
        whole_seed(self.seed)
        if self.eval.sample_every and not isinstance(self.data, TextSpec):
            raise ConfigError("eval.sample_every", self.eval.sample_every, f"0 with data of task {self.task}, no text")
        if self.model.depth is not None and len(self.variant.pattern) > self.model.depth:
            written = "[" + ",".join(layer.value for layer in self.variant.pattern) + "]"
            raise ConfigError("variant.pattern", written, f"at most model.depth = {self.model.depth} layers")
        if Layer.mamba3 in self.variant.layers(len(self.variant.pattern)) and (self.model.d_state or 0) % 2:
            raise ConfigError(
                "model.d_state", self.model.d_state, "even with mamba3 layers, whose state turns in pairs"
            )
        for asked in self.eval.asked:
            refuse_inexpressible(asked, self.data)

    @property
    def task(self) -> str:
        """Name of the data's task, a key of ``DATA_SPECS``."""
        return next(name for name, spec in DATA_SPECS.items() if type(self.data) is spec)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; ``data`` carries its ``task``. ``from_dict`` restores an equal spec."""
        plain = to_plain(self)
        plain["data"] = {"task": self.task, **plain["data"]}
        return plain

    @staticmethod
    def from_dict(plain: dict[str, Any]) -> "TrialSpec":
        """The spec that ``to_dict`` wrote."""
        data = dict(plain["data"])
        data_type = DATA_SPECS[data.pop("task")]
        return TrialSpec(
            seed=plain["seed"],
            variant=from_plain(VariantSpec, plain["variant"]),
            model=from_plain(ModelSpec, plain["model"]),
            data=from_plain(data_type, data),
            train=from_plain(TrainSpec, plain["train"]),
            eval=from_plain(EvalSpec, plain["eval"]),
        )

    @property
    def trial_id(self) -> str:
        """First 12 hex digits of the SHA-256 of the canonical JSON, the variant's label and the way its widths were
        found left out, and so where its text was found, how many at a time a suite takes and where its parts lie while
        it is trained."""
        plain = self.to_dict()
        del plain["variant"]["name"]
        for key in LOCATING:
            plain["data"].pop(key, None)
        for key in BUDGETING:
            del plain["model"][key]
        for key in PLACING:
            del plain["train"][key]
        plain["eval"]["suites"] = [suite_identity(asked) for asked in self.eval.asked]
        return short_hash(plain)


def short_hash(plain: dict[str, Any]) -> str:
    """First 12 hex digits of the SHA-256 of the canonical JSON."""
    canonical = json.dumps(plain, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:12]


def whole_seed(given: int | str) -> int:
    """A seed, as a number or as it was typed.

    Raises:
        ConfigError: it is no whole number from 0.
    """
    if not re.fullmatch(r"\d+", str(given)):
        raise ConfigError("seed", given, "a whole number from 0")
    return int(given)


def to_plain(value: Any) -> Any:
    """Specs as JSON values: dataclasses to dictionaries, enums to their values, tuples to lists."""
    if isinstance(value, Enum):
        return value.value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, list | tuple):
        return [to_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: to_plain(item) for key, item in value.items()}
    return value


def from_plain(cls: type[T], plain: dict[str, Any]) -> T:
    """A flat spec from JSON values; enums (also in lists, and those that may be null) by value."""
    hints = get_type_hints(cls)
    return cls(**{key: _typed(hints[key], value) for key, value in plain.items()})


def _typed(hint: Any, value: Any) -> Any:
    if isinstance(hint, UnionType):
        hint = next(kind for kind in get_args(hint) if (kind is NoneType) == (value is None))
    if isinstance(hint, type) and issubclass(hint, Enum):
        return hint(value)
    if (origin := get_origin(hint)) in (list, tuple) and value is not None:
        return origin(_typed(get_args(hint)[0], item) for item in value)
    return value


def flatten(plain: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dictionaries as one with dotted keys; lists stay whole."""
    flat: dict[str, Any] = {}
    for key, value in plain.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
