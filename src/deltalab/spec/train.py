"""How a trial is optimised."""

from dataclasses import dataclass
from enum import Enum

from deltalab.errors import ConfigError


class Precision(Enum):
    """Arithmetic of the forward and backward pass; weights and optimiser state stay fp32."""

    fp32 = "fp32"
    bf16 = "bf16"


class Strategy(Enum):
    """What each of the processes that train a trial together holds; alone, a process holds everything.

    ddp: weights, gradients and optimiser state whole, on every process.
    fsdp: a share of them, over all processes; a block's weights are gathered when it computes (FSDP2).
    hsdp: a share of them, over ``train.shard_size`` processes; such groups are replicas of each other.
    auto: ddp where that fits the GPU, else fsdp on one node and hsdp over several.
    """

    auto = "auto"
    ddp = "ddp"
    fsdp = "fsdp"
    hsdp = "hsdp"


PLACING = ("strategy", "shard_size", "micro_batch_size", "keep_checkpoints")
"""Keys that say where a trial's parts lie and what is kept of it; a trial that is resumed may have others."""


@dataclass(frozen=True, kw_only=True)
class TrainSpec:
    """AdamW with linear warm-up and cosine decay.

    Attributes:
        steps: optimiser steps.
        batch_size: sequences per step, over all accumulation parts.
        accumulation: parts that each process splits its sequences of a batch into; their gradients are added up.
        micro_batch_size: sequences of such a part, which then says how many parts there are on any number of
            processes; null is as ``accumulation`` says.
        strategy: auto, ddp, fsdp or hsdp.
        shard_size: processes that hold one copy of the weights together under hsdp; null is those of a node.
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
        keep_checkpoints: how many of the newest stay.
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
    micro_batch_size: int | None = None
    strategy: Strategy = Strategy.auto
    shard_size: int | None = None
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
    keep_checkpoints: int = 1
    loss_bound: float = 50.0
    max_hours: float | None = None
    deterministic: bool = False
    profile: bool = False
    peak_tflops: float | None = None

    def __post_init__(self) -> None:
        for key in ("steps", "batch_size", "accumulation", "log_every", "keep_checkpoints"):
            if getattr(self, key) < 1:
                raise ConfigError(f"train.{key}", getattr(self, key), "a whole number from 1")
        for key in ("micro_batch_size", "shard_size"):
            value = getattr(self, key)
            if value is not None and value < 1:
                raise ConfigError(f"train.{key}", value, "a whole number from 1, or null")
        if self.micro_batch_size is not None and self.accumulation != 1:
            allowed = f"null with train.accumulation={self.accumulation}: each says how a batch is split"
            raise ConfigError("train.micro_batch_size", self.micro_batch_size, allowed)
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

    def parts(self, processes: int) -> int:
        """Parts that each of so many processes splits its sequences of a batch into.

        Raises:
            ConfigError: the batch does not divide.
        """
        if self.micro_batch_size is None:
            unit, said = self.accumulation * processes, f"train.accumulation={self.accumulation}"
        else:
            unit, said = self.micro_batch_size * processes, f"train.micro_batch_size={self.micro_batch_size}"
        if self.batch_size % unit:
            allowed = f"a multiple of {unit} ({said} × {processes} process{'es' if processes > 1 else ''})"
            raise ConfigError("train.batch_size", self.batch_size, allowed)
        return self.accumulation if self.micro_batch_size is None else self.batch_size // unit
