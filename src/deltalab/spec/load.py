"""From Hydra's configuration to specs: the only reader of Hydra and OmegaConf.

``register`` puts the specs into Hydra's store as schemas, so that a typo or a wrong type is refused while the
configuration is composed; ``trial_spec`` turns a composed configuration into a resolved TrialSpec.
"""

import dataclasses
import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import create_config_search_path
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, OverrideParseException
from hydra.types import RunMode
from omegaconf import MISSING, DictConfig, OmegaConf, flag_override
from omegaconf.errors import OmegaConfBaseException

from deltalab.errors import ConfigError, UsageError
from deltalab.spec.data import DataSpec
from deltalab.spec.eval import EvalSpec
from deltalab.spec.launcher import LauncherSpec, SlurmSpec, launcher_spec
from deltalab.spec.model import ModelSpec
from deltalab.spec.study_file import KEYS
from deltalab.spec.tracking import TrackingSpec
from deltalab.spec.train import TrainSpec
from deltalab.spec.trial import DATA_SPECS, TrialSpec
from deltalab.spec.variant import VariantSpec

ROOT = Path(__file__).parents[3]
"""The checkout: conf/, sweeps/ and launch.py lie here."""
CONF = ROOT / "conf"
GROUPS = ("variant", "model", "data", "train", "eval", "tracking")
LAUNCHER_TARGET = "hydra_plugins.deltalab_launcher.launcher.DeltalabLauncher"


SweepConfig = dataclasses.make_dataclass("SweepConfig", [(key, Any, None) for key in KEYS])
"""Keys of a study file, given on the command line: ``sweep.design=one_at_a_time``."""


@dataclass
class LaunchConfig:
    """The root of the configuration: a trial's specs, and how and what to launch."""

    variant: VariantSpec = MISSING
    model: ModelSpec = MISSING
    data: DataSpec = MISSING
    train: TrainSpec = MISSING
    eval: EvalSpec = MISSING
    tracking: TrackingSpec = MISSING
    seed: int = MISSING
    study: str | None = MISSING
    sweep: SweepConfig = field(default_factory=SweepConfig)  # type: ignore[valid-type]
    plan: str = MISSING
    confirmed: bool = MISSING
    json: bool = MISSING
    runs: str = MISSING


@dataclass(frozen=True, kw_only=True)
class LauncherSchema(LauncherSpec):
    """The launcher's node as Hydra instantiates it, with plain values in lists and mappings."""

    _target_: str = LAUNCHER_TARGET
    _convert_: str = "all"


@dataclass(frozen=True, kw_only=True)
class SlurmSchema(SlurmSpec):
    """The same for ``hydra/launcher=slurm``."""

    _target_: str = LAUNCHER_TARGET
    _convert_: str = "all"


@functools.cache
def register() -> None:
    """Put the schemas into Hydra's store; calling it again changes nothing."""
    store = ConfigStore.instance()
    root = _open(LaunchConfig)
    for group in dataclasses.fields(LaunchConfig):
        if group.name in GROUPS:
            root[group.name] = _open(group.type)
    _unlock(root)
    store.store(name="schema", node=root)
    for name, schema in DATA_SPECS.items():
        store.store(group="hydra/schema", name=name, node=_open(schema))
    store.store(group="hydra/schema", name="launcher", node=_open(LauncherSchema))
    store.store(group="hydra/schema", name="slurm", node=_open(SlurmSchema))


def _open(schema: Any) -> DictConfig:
    node = OmegaConf.structured(schema)
    _unlock(node)
    return node


def _unlock(node: Any) -> None:
    """Clear the read-only flags that frozen dataclasses bring: composition writes into the schemas."""
    if not OmegaConf.is_config(node):
        return
    OmegaConf.set_readonly(node, None)
    if isinstance(node, DictConfig) and not node._is_missing() and not node._is_none():
        for key in node:
            _unlock(node._get_node(key))


def compose(overrides: Sequence[str]) -> DictConfig:
    """The configuration of one trial, as ``python launch.py OVERRIDES`` would compose it.

    Hydra composes each set of group choices once (tens of milliseconds); the values are then set on a copy, by Hydra's
    own code and in its order.

    Args:
        overrides: Hydra overrides.

    Raises:
        UsageError: an unknown key, group, choice or a value of the wrong type; one line.
    """
    register()
    groups = tuple(part for part in overrides if part.split("=", 1)[0].split("@", 1)[0].lstrip("+~") in _groups())
    values = [part for part in overrides if part not in groups]
    try:
        config = _compose_groups(groups).copy()
        parsed = OverridesParser.create().parse_overrides(values)
        for override in parsed:
            if override.is_sweep_override():
                raise UsageError(f"{override.input_line}: one value is allowed here, several need -m (multirun)")
        ConfigLoaderImpl._apply_overrides_to_config(parsed, config)
        return config
    except (HydraException, OmegaConfBaseException) as error:
        raise UsageError(explain(error)) from error


def launcher(overrides: Sequence[str]) -> LauncherSpec:
    """The launcher that ``hydra/launcher=… hydra.launcher.KEY=VALUE`` asks for.

    Raises:
        UsageError: an unknown key or choice, or a value that is not allowed; one line.
    """
    refuse_other_launchers(overrides)
    register()
    loader = ConfigLoaderImpl(create_config_search_path(str(CONF)))
    try:
        config = loader.load_configuration(config_name="config", overrides=list(overrides), run_mode=RunMode.RUN)
        return launcher_of(config.hydra.launcher)
    except (HydraException, OmegaConfBaseException) as error:
        raise UsageError(explain(error)) from error


def refuse_other_launchers(arguments: Sequence[str]) -> None:
    """Say before Hydra starts that a launcher is none of ours: Hydra's own (basic) would end after the first cell.

    Raises:
        UsageError: ``hydra/launcher=`` names what is not in conf/.
    """
    for argument in arguments:
        group, _, name = argument.partition("=")
        if group == "hydra/launcher" and name not in _launchers():
            raise ConfigError(group, name, _launchers())


def _launchers() -> list[str]:
    return sorted(path.stem for path in (CONF / "hydra" / "launcher").glob("*.yaml"))


def launcher_of(node: DictConfig) -> LauncherSpec:
    """The spec in Hydra's own node ``hydra.launcher``."""
    options: Any = OmegaConf.to_container(node, resolve=True)
    return launcher_spec({key: value for key, value in options.items() if not key.startswith("_")})


@functools.cache
def _compose_groups(overrides: tuple[str, ...]) -> DictConfig:
    """A configuration with groups chosen and values as the choices say, without Hydra's own node (large to copy)."""
    loader = ConfigLoaderImpl(create_config_search_path(str(CONF)))
    config = loader.load_configuration(config_name="config", overrides=list(overrides), run_mode=RunMode.RUN)
    with flag_override(config, ["struct", "readonly"], [False, False]):
        del config["hydra"]
    return config


@functools.cache
def _groups() -> frozenset[str]:
    return frozenset(path.relative_to(CONF).as_posix() for path in CONF.rglob("*") if path.is_dir())


def trial_spec(config: DictConfig) -> TrialSpec:
    """A composed configuration as a validated spec; what follows from the rest is still open (``study.resolve``).

    Raises:
        ConfigError: an impossible combination or a value left open.
    """
    _refuse_unknown(config)
    parts: dict[str, Any] = {}
    for name in ("variant", "model", "data", "train", "eval"):
        parts[name] = _to_spec(config[name], name)
    return TrialSpec(seed=config.seed, **parts)


def _refuse_unknown(config: DictConfig) -> None:
    for name, schema in [("", LaunchConfig), *((f"{k}.", OmegaConf.get_type(config, k)) for k in GROUPS)]:
        node = config[name[:-1]] if name else config
        known = {f.name for f in dataclasses.fields(schema)}
        for key in sorted(set(node) - known - {"hydra"}):
            raise ConfigError(f"+{name}{key}", node[key], f"no key outside {', '.join(sorted(known))}")


class Planning(Enum):
    """Only plan (``true``), measure and plan (``calibrate``), or launch (``false``)."""

    false = "false"
    true = "true"
    calibrate = "calibrate"


@dataclass(frozen=True, kw_only=True)
class LaunchSpec:
    """How and what to launch, read off the root of a composed configuration.

    Attributes:
        study: the study asked for, or None.
        sweep: keys of a study file given on the command line (``sweep.design=one_at_a_time``).
        plan: true prints the plan and runs nothing, calibrate measures first, false launches.
        confirmed: launch whatever it costs.
        json: print the plan as JSON.
        runs: the runs folder, absolute.
        seed: seed of a single trial.
        variant: name of the variant chosen.
        tracking: whether and where to mirror.
    """

    study: str | None
    sweep: dict[str, Any]
    plan: Planning
    confirmed: bool
    json: bool
    runs: Path
    seed: int
    variant: str
    tracking: TrackingSpec


def launch_spec(config: DictConfig) -> LaunchSpec:
    """The launch part of a composed configuration.

    Raises:
        ConfigError: a value of plan or tracking that is not allowed.
    """
    planning = str(config.plan).lower()
    if planning not in {member.value for member in Planning}:
        raise ConfigError("plan", config.plan, [member.value for member in Planning])
    sweep: Any = OmegaConf.to_container(config.sweep)
    return LaunchSpec(
        study=config.study,
        sweep={key: value for key, value in sweep.items() if value is not None},
        plan=Planning(planning),
        confirmed=config.confirmed,
        json=config.json,
        runs=Path(config.runs).resolve(),
        seed=config.seed,
        variant=config.variant.name,
        tracking=_to_spec(config.tracking, "tracking"),
    )


def _to_spec(node: Any, name: str) -> Any:
    try:
        return OmegaConf.to_object(node)
    except OmegaConfBaseException as error:
        cause = error.__cause__
        if isinstance(cause, ConfigError):
            raise cause from None
        raise ConfigError(name, OmegaConf.to_container(node), explain(error)) from error


TYPES = (
    (r"Value '(.*)' of type '\w+' could not be converted to Integer", "an integer"),
    (r"Value '(.*)' of type '\w+' could not be converted to Float", "a number"),
    (r"Value '(.*)' is not a valid bool", "true or false"),
    (r"Invalid value '(.*)', expected one of \[(.*)\]", "one of {}"),
    (r"Invalid value assigned: (\w+) is not a ListConfig", "a list, as in [a,b]"),
)
"""What OmegaConf says of a value of the wrong type, and what it would take."""


def _what_is_allowed(override: str, said: str) -> str:
    for pattern, allowed in TYPES:
        if match := re.match(pattern, said):
            part = override.partition("=")[2]
            inside = part.startswith("[") and not match[1].startswith("[") and match[1] in part
            return "allowed is " + allowed.format(*match.groups()[1:]) + (f" where {match[1]} stands" if inside else "")
    return said


def explain(error: BaseException) -> str:
    """Hydra's and OmegaConf's errors in one line with key, value and what is allowed.

    The useful half often sits in the cause, and Hydra pads the rest with its search path.
    """
    text = " ".join(line.strip() for line in str(error).splitlines())
    cause = error.__cause__
    if choice := re.search(r"Could not find '(.+)/(.*?)'\s+Available options in '.+?': (.*?) Config search path", text):
        group, name, options = choice.groups()
        allowed = _launchers() if group == "hydra/launcher" else options.split()  # Hydra's own is none of ours
        return f"{group}={name}: allowed is one of {', '.join(allowed)}"
    if unknown := re.search(r"Could not override '(.+?)'", text):
        owner = getattr(cause, "object_type", None)
        names = [f.name for f in dataclasses.fields(owner)] if dataclasses.is_dataclass(owner) else []
        known = [name for name in names if not name.startswith("_")]
        return f"{unknown[1]}: no such key" + (f"; allowed is one of {', '.join(known)}" if known else "")
    if merging := re.search(r"Error merging override (.+?=.*)", text):
        return f"{merging[1]}: {_what_is_allowed(merging[1], str(cause).splitlines()[0])}"
    if isinstance(error, OverrideParseException):
        return f"{error.override}: allowed is key=value in Hydra's grammar ({text.partition(' See http')[0]})"
    if "Config group override" in text:  # Hydra does not say which
        return "a group's value is missing; allowed is group=choice, as --help lists them"
    if "Ambiguous value" in text:
        return re.sub(r"\s*1\. To use.*", "; several values need -m (multirun)", text)
    return re.sub(r"\s*(See https://\S+|Config search path:).*", "", text)
