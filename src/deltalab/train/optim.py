"""AdamW with linear warm-up and cosine decay."""

import math

import torch
from torch import nn

from deltalab.spec.train import TrainSpec


def make_optimizer(module: nn.Module, train: TrainSpec) -> torch.optim.AdamW:
    """AdamW over two groups: matrices decay; a, δ, norms, convolutions and the embedding do not."""
    decayed, free = [], []
    for name, parameter in module.named_parameters():
        is_matrix = parameter.ndim == 2 and ".conv." not in name and not name.endswith("embedding")
        (decayed if is_matrix else free).append(parameter)
    groups = [{"params": decayed, "weight_decay": train.weight_decay}, {"params": free, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=train.lr, betas=(train.beta1, train.beta2), fused=True)


def learning_rate(train: TrainSpec, step: int) -> float:
    """Rate of the update that follows ``step`` finished steps: linear up to the peak, then cosine to the floor."""
    if step < train.warmup_steps:
        return train.lr * (step + 1) / train.warmup_steps
    span = max(1, train.steps - train.warmup_steps)
    progress = min(1.0, (step - train.warmup_steps) / span)
    floor = train.lr * train.min_lr_ratio
    return floor + (train.lr - floor) * 0.5 * (1 + math.cos(math.pi * progress))
