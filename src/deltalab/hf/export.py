"""``deltalab export``: a trained model as a folder that transformers reads."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import torch
from transformers.utils import logging

from deltalab.errors import UsageError
from deltalab.exchange.load import find_weights, home_of, read_spec
from deltalab.hf.configuration import DeltalabConfig
from deltalab.hf.modeling import DeltalabForCausalLM
from deltalab.hf.tokenizer import make_tokenizer
from deltalab.train.weights import load_weights


def export(trial: str, folder: Path, runs: Path, study: str | None = None, dtype: str | None = None) -> None:
    """Write configuration, weights and, for text, the tokenizer.

    Args:
        trial: as ``exchange.load.load`` takes it; runs and study too.
        folder: a new or an empty one.
        dtype: name of the weights' type; as trained unless given.

    Raises:
        UsageError: the folder has files in it, or the trial cannot be loaded.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder}: not empty; allowed is a new or an empty folder")
    weights = find_weights(trial, runs, study)
    spec = read_spec(weights)
    tokenizer = make_tokenizer(spec.data, home_of(weights))
    end = None if tokenizer is None else spec.data.vocab_size - 1
    config = DeltalabConfig(trial=spec.to_dict(), eos_token_id=end, pad_token_id=end)
    with torch.device("meta"):
        model = DeltalabForCausalLM(config)
    model.model = load_weights(weights, spec, None if dtype is None else getattr(torch, dtype))
    with _quiet():
        model.save_pretrained(folder)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No progress bar of transformers for what takes a moment."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
