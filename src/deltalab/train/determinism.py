"""``train.deterministic``: only operations that give the same bits every time, and a clear word where one does not."""

import contextlib
import os
import re
from collections.abc import Iterator

import torch

from deltalab.errors import ConfigError

WORKSPACE = ":4096:8"
"""What cuBLAS needs to be told to add in one order (CUBLAS_WORKSPACE_CONFIG); torch refuses its products otherwise."""
REFUSALS = (
    r"(?P<operation>\S+) does not have a deterministic implementation",
    r"Deterministic behavior was enabled .* (?P<operation>CuBLAS) ",
)
"""How torch says that an operation is none of them."""


@contextlib.contextmanager
def deterministic(wanted: bool) -> Iterator[None]:
    """Inside, if ``wanted``, torch refuses what is not deterministic; afterwards it is as it was.

    Raises:
        ConfigError: in place of torch's refusal.
    """
    if not wanted:
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", WORKSPACE)
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    tuned, torch.backends.cudnn.benchmark = torch.backends.cudnn.benchmark, False
    torch.use_deterministic_algorithms(True)
    try:
        yield
    except RuntimeError as error:
        for refusal in REFUSALS:
            if found := re.search(refusal, str(error), re.DOTALL):
                allowed = f"false here: {found['operation']} has no deterministic form on this device"
                raise ConfigError("train.deterministic", "true", allowed) from error
        raise
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        torch.backends.cudnn.benchmark = tuned
