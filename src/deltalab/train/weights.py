"""A model with the parameters of a file, a trial's own or an export's."""

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from deltalab.errors import UsageError
from deltalab.model.language_model import LanguageModel
from deltalab.spec.trial import TrialSpec
from deltalab.train.checkpoint import read_weights

PREFIX = "model."
"""What the names of parameters begin with in an export."""


def load_weights(
    file: Path, spec: TrialSpec, dtype: torch.dtype | None = None, device: str | torch.device = "cpu"
) -> LanguageModel:
    """The model of a spec with the parameters of a file, in eval mode.

    Args:
        file: safetensors.
        spec: the trial they are of.
        dtype: of the parameters, those aside that only fp32 holds (decay rates); as they are unless given.
        device: where the model goes.

    Raises:
        UsageError: the file cannot be read, or its parameters are not the model's.
    """
    with torch.device("meta"):
        model = LanguageModel(spec.variant, spec.model)
    try:
        tensors = read_weights(file, str(device))
    except (SafetensorError, OSError) as error:
        raise UsageError(f"{file}: cannot be read as safetensors ({error})") from error
    tensors = {name.removeprefix(PREFIX): tensor for name, tensor in tensors.items()}
    _check(file, model, tensors)
    if dtype is not None:
        tensors = {name: x if name in model.fp32 else x.to(dtype) for name, x in tensors.items()}
    model.load_state_dict(tensors, assign=True)
    return model.eval()


def weights_dtype(file: Path) -> str:
    """``float32``, ``bfloat16``: what a file's weights are held in, told by the embedding."""
    with safe_open(file, "pt") as tensors:
        name = next(name for name in tensors.keys() if name.removeprefix(PREFIX) == "embedding")  # noqa: SIM118
        return str(tensors.get_tensor(name).dtype).removeprefix("torch.")


def _check(file: Path, model: LanguageModel, tensors: dict[str, Tensor]) -> None:
    """Refuse other parameters than the model has.

    Raises:
        UsageError: the first that differs.
    """
    for name, parameter in model.named_parameters():
        if name not in tensors:
            raise UsageError(f"{file}: no parameter {name}, which config.json asks for")
        if tensors[name].shape != parameter.shape:
            found, wanted = list(tensors[name].shape), list(parameter.shape)
            raise UsageError(f"{file}: {name} has shape {found}; allowed is {wanted}, as config.json says")
    if more := sorted(tensors.keys() - dict(model.named_parameters())):
        raise UsageError(f"{file}: parameter {more[0]}, which the model of config.json does not have")
