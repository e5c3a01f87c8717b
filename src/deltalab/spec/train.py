"""How a trial is optimised."""

from dataclasses import dataclass
from enum import Enum

from deltalab.errors import ConfigError


class Precision(Enum):
    """Arithmetic of the forward and backward pass; weights and optimiser state stay fp32."""

    fp32 = "fp32"
    bf16 = "bf16"


@dataclass(frozen=True, kw_only=True)
class TrainSpec:
    """AdamW with linear warm-up and cosine decay.

    Attributes:
        steps: optimiser steps.
        batch_size: sequences per step, over all accumulation parts.
        accumulation: parts a batch is split into.
        lr: peak learning rate.
        min_lr_ratio: final learning rate as a share of the peak.
        warmup_steps: steps of linear warm-up.
        weight_decay: on matrices only (never on a, δ, norms, embeddings, biases, convolutions).
        beta1: first-moment decay of AdamW.
        beta2: second-moment decay of AdamW.
        clip: bound of the gradient's global norm.
        precision: fp32 or bf16 autocast.
        activation_checkpointing: keep only the input of each block for the backward pass, which computes the block
            again: the same numbers in less memory and about a third more time.
        compile: let torch.compile fuse the model's forward and backward pass; evaluation is not compiled.
        log_every: steps between logged training metrics.
        checkpoint_every: steps between checkpoints; 0 writes one only when the run is asked to stop.
        loss_bound: a loss above it, or NaN, ends the trial as diverged.
        max_hours: running time, over all resumed executions, after which the trial ends where it is: evaluated, with
            weights, marked wherever it is compared; null sets no limit. The learning rate goes by ``steps`` alone.
        deterministic: use only operations that give the same bits every time, slower ones where need be, and fail where
            there is none.
        profile: record a few steps, to look at (train/profiling.py).
        peak_tflops: TFLOP/s of one device at best, for the MFU; null takes its data sheet's (train/peaks.py), and where
            that is not known no MFU is logged.
    """

    steps: int = 1000
    batch_size: int = 64
    accumulation: int = 1
    lr: float = 3e-3
    min_lr_ratio: float = 0.1
    warmup_steps: int = 50
    weight_decay: float = 0.1
    beta1: float = 0.9
    beta2: float = 0.95
    clip: float = 1.0
    precision: Precision = Precision.fp32
    activation_checkpointing: bool = False
    compile: bool = False
    log_every: int = 20
    checkpoint_every: int = 200
    loss_bound: float = 50.0
    max_hours: float | None = None
    deterministic: bool = False
    profile: bool = False
    peak_tflops: float | None = None

    def __post_init__(self) -> None:
        for key in ("steps", "batch_size", "accumulation", "log_every"):
            if getattr(self, key) < 1:
                raise ConfigError(f"train.{key}", getattr(self, key), "a whole number from 1")
        for key in ("warmup_steps", "checkpoint_every"):
            if getattr(self, key) < 0:
                raise ConfigError(f"train.{key}", getattr(self, key), "a whole number from 0")
        for key in ("lr", "clip", "loss_bound"):
            if not getattr(self, key) > 0:
                raise ConfigError(f"train.{key}", getattr(self, key), "a number above 0")
        for key in ("max_hours", "peak_tflops"):
            if getattr(self, key) is not None and not getattr(self, key) > 0:
                raise ConfigError(f"train.{key}", getattr(self, key), "null or a number above 0")
        if self.weight_decay < 0:
            raise ConfigError("train.weight_decay", self.weight_decay, "a number from 0")
        for key in ("beta1", "beta2"):
            if not 0 <= getattr(self, key) < 1:
                raise ConfigError(f"train.{key}", getattr(self, key), "a number from 0 up to 1, 1 excluded")
        if not 0 <= self.min_lr_ratio <= 1:
            raise ConfigError("train.min_lr_ratio", self.min_lr_ratio, "a number from 0 to 1")
        if self.batch_size % self.accumulation:
            raise ConfigError(
                "train.accumulation", self.accumulation, f"a divisor of train.batch_size = {self.batch_size}"
            )
