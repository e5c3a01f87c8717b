"""The form of checkpoints of models that processes hold shares of: torch.distributed.checkpoint.

Every process writes the shares it holds; ``.metadata`` says which file has which part of which tensor, and any number
of processes reads from them what each is to hold. The package is imported where it is used: that takes half as long as
torch itself, and a trial of one process needs none of it.
"""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from deltalab.train.distributed import World

METADATA = ".metadata"
MODEL = "model."
"""What the names of parameters begin with, beside the optimiser's tensors."""


class Writer:
    """Writes shares; every rank has one and they write together.

    Args:
        module: of which this rank holds shares.
        world: the ranks.
    """

    def __init__(self, module: nn.Module, world: World) -> None:
        from torch.distributed.checkpoint.staging import BlockingAsyncStager

        on_gpu = next(module.parameters()).is_cuda
        self._channel = world.channel()  # the thread's questions are not to come between the step loop's
        self._stager = BlockingAsyncStager(cache_staged_state_dict=on_gpu)  # pinned memory on a GPU

    def copier(self, state: dict[str, Tensor], folder: Path | None) -> Callable[[Path | None], None]:
        """Copies the state at once and begins to write it to a folder; what it returns waits for all ranks to be done.

        Raises:
            OSError: of what it returns, on every rank: one could not write.
        """
        from torch.distributed.checkpoint.api import CheckpointException
        from torch.distributed.checkpoint.state_dict_saver import async_save

        assert folder is not None, "the main rank told"
        done: Any = async_save(
            state,
            storage_writer=_writer(folder),
            process_group=self._channel,
            async_stager=self._stager,
        )

        def wait(part: Path | None) -> None:
            try:
                done.result()
            except CheckpointException as error:  # no Exception, and it wraps those of all ranks
                raise next(iter(error.failures.values()))[0] from None

        return wait


def _writer(folder: Path) -> Any:
    """Writes files; where the disk is full it says so, as torch's serialisation alone does not."""
    from torch.distributed.checkpoint.filesystem import FileSystemWriter

    class Files(FileSystemWriter):
        def write_data(self, plan: Any, planner: Any) -> Any:
            try:
                return super().write_data(plan, planner)
            except RuntimeError as error:
                if isinstance(error.__context__, OSError):  # other ranks hear of the error without its context
                    raise error.__context__ from None
                raise

    return Files(folder)


def read(folder: Path, state: dict[str, Tensor]) -> None:
    """Fill tensors, shares or whole ones, from a checkpoint; this process by itself."""
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.filesystem import FileSystemReader
    from torch.distributed.checkpoint.state_dict_loader import load

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled")
        try:
            load(dict(state), storage_reader=FileSystemReader(folder), no_dist=True)
        except CheckpointException as error:
            raise next(iter(error.failures.values()))[0] from None


def read_weights(folder: Path) -> dict[str, Tensor]:
    """Name → whole parameter of a checkpoint's model, on the CPU."""
    from torch.distributed.checkpoint.filesystem import FileSystemReader
    from torch.distributed.checkpoint.metadata import TensorStorageMetadata

    known = FileSystemReader(folder).read_metadata().state_dict_metadata
    state = {
        name: torch.empty(tensor.size, dtype=tensor.properties.dtype)
        for name, tensor in known.items()
        if isinstance(tensor, TensorStorageMetadata) and name.startswith(MODEL)
    }
    read(folder, state)
    return {name.removeprefix(MODEL): tensor for name, tensor in state.items()}
