"""Trial specs for tests: composed as a user would, small enough for seconds."""

from pathlib import Path

from deltalab.spec import load
from deltalab.spec.trial import TrialSpec
from deltalab.study.resolve import resolve

VARIANTS = sorted(path.stem for path in (load.CONF / "variant").glob("*.yaml"))
BASELINES = ["mamba2", "mamba3", "mamba3_mimo", "transformer"]
LATTICE = [name for name in VARIANTS if name not in BASELINES]
"""The variants whose mixer is the gated delta rule."""

TINY = ("train=smoke", "eval.sequences=8", "model.mlp_width=16")


def trial(*overrides: str) -> TrialSpec:
    """The trial that ``python launch.py`` with these overrides would run, at smoke size."""
    return resolve(load.trial_spec(load.compose([*TINY, *overrides])))


def study_file(folder: Path, text: str, name: str = "ask") -> Path:
    """A study file in a folder."""
    path = folder / f"{name}.yaml"
    path.write_text(text)
    return path


TWO_CELLS = """
question: does the wide range help?
baseline: {variant: gated_delta_net_2}
factors: {variant: [gated_delta_net_2, gated_delta_net_2_wide]}
seeds: [0, 1]
overrides: {train: smoke, eval.sequences: 8, model.mlp_width: 16}
match: parameters
metrics: {eval/accuracy: max, eval/loss: min}
"""
