"""Run directories as completed trials leave them, without the training."""

from collections.abc import Callable
from pathlib import Path

import torch

from deltalab.data.tokens import BPEEncoder
from deltalab.model.init import initialise
from deltalab.model.language_model import LanguageModel
from deltalab.spec.data import TextSpec, Tokenizer
from deltalab.spec.study import StudySpec
from deltalab.spec.trial import TrialSpec
from deltalab.study import ledger
from deltalab.study.ledger import CellRecord
from deltalab.train.checkpoint import WEIGHTS, save_weights
from tests.specs import trial

Eval = Callable[..., tuple[int, str, str]]
"""The fixture ``evaluate``: a command line after ``deltalab eval`` → exit code, output, error."""
TEXT = ("data=text", "model.window=6")
BPE = (*TEXT, "data.tokenizer=bpe", "data.bpe_vocab=300")
LEARNT_FROM = ["größe λ return value größe λ return value", "value = größe(λ)"]


def trained(runs: Path, *overrides: str, variant: str = "gated_delta_net_2", pattern: str = "[mixer,swa]") -> TrialSpec:
    """A trial with weights that write differently after different prompts, launched in the study ``ask``."""
    spec = trial(f"variant={variant}", f"variant.pattern={pattern}", *overrides)
    folder = ledger.freeze(runs, spec)
    model = LanguageModel(spec.variant, spec.model)
    initialise(model, spec.model, 0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter *= 4
    save_weights(folder / WEIGHTS, model)
    if isinstance(spec.data, TextSpec) and spec.data.tokenizer is Tokenizer.bpe:
        BPEEncoder.learn(spec.data.vocab_size, LEARNT_FROM).save(folder)
    cell = CellRecord(name=f"variant={variant}", levels={"variant": variant}, overrides={}, trials={0: spec.trial_id})
    ledger.write_study(runs, StudySpec(name="ask", baseline={}, factors={}), [cell], "python launch.py", {})
    return spec
