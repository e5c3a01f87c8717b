"""A trained model from its trial, or from a folder with its weights and its configuration.

config.json         the frozen trial: shape, variant, data and all else that made the model
model.safetensors   its parameters, by name
tokenizer.json      of a text model whose tokenizer was learnt

A run directory has them once its trial has completed, a copy of them elsewhere is as good, and so are a checkpoint, of
whatever strategy, and what ``deltalab export`` writes.
"""

import json
import os
from pathlib import Path
from typing import Any

import torch

from deltalab.dispatch.steer import find_one
from deltalab.errors import ConfigError, NotFoundError, UsageError
from deltalab.model.language_model import LanguageModel
from deltalab.spec.trial import TrialSpec
from deltalab.study.ledger import trial_dir
from deltalab.track import journal
from deltalab.train.checkpoint import WEIGHTS, latest_checkpoint, weights_in
from deltalab.train.weights import load_weights

CONFIG = "config.json"
EXPORTED = "trial"
"""Key of an exported configuration under which the trial stands."""


def load(
    trial: str | os.PathLike[str],
    *,
    runs: str | os.PathLike[str] | None = None,
    study: str | None = None,
    dtype: torch.dtype | None = None,
    device: str | torch.device = "cpu",
) -> LanguageModel:
    """A trained model in eval mode.

    Args:
        trial: a folder, or the weights in it; else as the commands name trials: an id or the beginning of one, or a
            cell (``variant=kda seed=1``).
        runs: the runs folder; ``$DELTALAB_RUNS`` or ``runs`` unless given.
        study: where a cell is looked for; the newest when left out.
        dtype: of the parameters, those aside that only fp32 holds (decay rates); as trained unless given.
        device: where it goes.

    Raises:
        NotFoundError: no such trial, folder or file, or weights that are not there yet.
        UsageError: the configuration is none, or the weights are not those of its model.
    """
    weights = find_weights(trial, runs, study)
    return load_weights(weights, read_spec(weights), dtype, device)


def find_weights(
    trial: str | os.PathLike[str], runs: str | os.PathLike[str] | None = None, study: str | None = None
) -> Path:
    """The file of weights that a text or path names. Arguments and errors as ``load``."""
    path = Path(trial)
    if path.is_file():
        return path
    if not path.is_dir():
        if isinstance(trial, os.PathLike) or path.suffix == ".safetensors" or len(path.parts) > 1:
            raise NotFoundError(f"{path}: no such file or folder")
        where = Path(runs or os.environ.get("DELTALAB_RUNS", "runs"))
        path = trial_dir(where, find_one(where, str(trial), study).trial)
    if (file := weights_in(path)) is None:
        raise NotFoundError(f"{path}: no {WEIGHTS}" + _why_not(path))
    return file


def home_of(weights: Path) -> Path:
    """The folder of a file of weights' configuration and tokenizer: its own, of a checkpoint the run directory."""
    return weights.parents[2] if is_checkpoint(weights) else weights.parent


def is_checkpoint(weights: Path) -> bool:
    """Whether weights are those of a trial on its way."""
    return weights.parent.parent.name == "checkpoints"


def read_spec(weights: Path) -> TrialSpec:
    """The trial that weights are of, from the configuration beside them; a checkpoint's is its run directory's.

    Raises:
        NotFoundError: there is none.
        UsageError: it is no trial's.
    """
    file = home_of(weights) / CONFIG
    if not file.is_file():
        raise NotFoundError(f"{file}: not there; weights are loaded with the configuration beside them")
    try:
        plain: dict[str, Any] = json.loads(file.read_text())
        return TrialSpec.from_dict(plain.get(EXPORTED, plain))
    except ConfigError as error:
        raise UsageError(f"{file}: {error}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        said = f"{type(error).__name__}: {error}".splitlines()[0]
        raise UsageError(f"{file}: not the configuration of a trial of this deltalab ({said})") from error


def _why_not(run_dir: Path) -> str:
    """Of a run directory, what its trial is doing and what can be loaded instead."""
    if not (run_dir / CONFIG).is_file():
        return ""
    state = journal.glance(run_dir).state.value
    checkpoint = latest_checkpoint(run_dir)
    return f", the trial is {state}" + (f"; its newest checkpoint is {checkpoint}" if checkpoint else "")
