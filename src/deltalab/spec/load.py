"""From Hydra's configuration to specs: the only reader of Hydra and OmegaConf.

``register`` puts the specs into Hydra's store as schemas, so that a typo or a wrong type is refused while the
configuration is composed; ``trial_spec`` turns a composed configuration into a resolved TrialSpec.
"""

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import create_config_search_path
from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from deltalab.errors import ConfigError, UsageError
from deltalab.spec.data import DataSpec
from deltalab.spec.eval import EvalSpec
from deltalab.spec.launcher import LauncherSpec
from deltalab.spec.model import ModelSpec
from deltalab.spec.tracking import TrackingSpec
from deltalab.spec.train import TrainSpec
from deltalab.spec.trial import DATA_SPECS, TrialSpec
from deltalab.spec.variant import VariantSpec

ROOT = Path(__file__).parents[3]
"""The checkout: conf/, sweeps/ and launch.py lie here."""
CONF = ROOT / "conf"
GROUPS = ("variant", "model", "data", "train", "eval", "tracking")
LAUNCHER_TARGET = "hydra_plugins.deltalab_launcher.launcher.DeltalabLauncher"


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
    plan: bool = MISSING
    runs: str = MISSING


@dataclass(frozen=True, kw_only=True)
class LauncherSchema(LauncherSpec):
    """The launcher's node as Hydra instantiates it."""

    _target_: str = LAUNCHER_TARGET


def register() -> None:
    """Put the schemas into Hydra's store; calling it again changes nothing."""
    store = ConfigStore.instance()
    root = _open(LaunchConfig)
    for group in dataclasses.fields(LaunchConfig):
        if dataclasses.is_dataclass(group.type):
            root[group.name] = _open(group.type)
    _unlock(root)
    store.store(name="schema", node=root)
    for name, schema in DATA_SPECS.items():
        store.store(group="hydra/schema", name=name, node=_open(schema))
    store.store(group="hydra/schema", name="launcher", node=_open(LauncherSchema))


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

    Args:
        overrides: Hydra overrides.

    Raises:
        UsageError: an unknown key, group, choice or a value of the wrong type; one line.
    """
    register()
    loader = ConfigLoaderImpl(create_config_search_path(str(CONF)))
    try:
        return loader.load_configuration(config_name="config", overrides=list(overrides), run_mode=RunMode.RUN)
    except (HydraException, OmegaConfBaseException) as error:
        raise UsageError(explain(error)) from error


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


@dataclass(frozen=True, kw_only=True)
class LaunchSpec:
    """How and what to launch, read off the root of a composed configuration.

    Attributes:
        study: the study asked for, or None.
        plan: print the plan and run nothing.
        runs: the runs folder.
        seed: seed of a single trial.
        variant: name of the variant chosen.
        tracking: whether and where to mirror.
    """

    study: str | None
    plan: bool
    runs: Path
    seed: int
    variant: str
    tracking: TrackingSpec


def launch_spec(config: DictConfig) -> LaunchSpec:
    """The launch part of a composed configuration.

    Raises:
        ConfigError: a tracking value that is not allowed.
    """
    return LaunchSpec(
        study=config.study,
        plan=config.plan,
        runs=Path(config.runs),
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


def explain(error: BaseException) -> str:
    """Hydra's and OmegaConf's errors in one line with key, value and what is allowed.

    The useful half often sits in the cause, and Hydra pads the rest with its search path.
    """
    text = " ".join(line.strip() for line in str(error).splitlines())
    cause = error.__cause__
    if choice := re.search(r"Could not find '(.+)/(.*?)'\s+Available options in '.+?': (.*?) Config search path", text):
        group, name, options = choice.groups()
        return f"{group}={name}: allowed is one of {', '.join(options.split())}"
    if unknown := re.search(r"Could not override '(.+?)'", text):
        owner = getattr(cause, "object_type", None)
        known = [f.name for f in dataclasses.fields(owner)] if dataclasses.is_dataclass(owner) else []
        return f"{unknown[1]}: no such key" + (f"; allowed is one of {', '.join(known)}" if known else "")
    if merging := re.search(r"Error merging override (.+?=.*)", text):
        return f"{merging[1]}: {str(cause).splitlines()[0]}"
    if "Config group override" in text:  # Hydra does not say which
        return "a group's value is missing; allowed is group=choice, as --help lists them"
    if "Ambiguous value" in text:
        return re.sub(r"\s*1\. To use.*", "; several values need -m (multirun)", text)
    return re.sub(r"\s*(See https://\S+|Config search path:).*", "", text)
