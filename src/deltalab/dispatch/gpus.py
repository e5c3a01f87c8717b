"""This machine's GPUs and how the local pool's workers share them."""

import os
from itertools import takewhile

from deltalab.errors import UsageError
from deltalab.spec.launcher import Device, LauncherSpec
from deltalab.track.provenance import gpus


def gpu_shares(launcher: LauncherSpec) -> list[str]:
    """The GPUs of each worker, as CUDA_VISIBLE_DEVICES names them; empty where trials use none.

    Raises:
        UsageError: a trial needs more GPUs than there are; one GPU a trial, the default, may be none, and with
            device=cpu the number says nothing.
    """
    found = [] if launcher.device is Device.cpu or not launcher.gpus_per_trial else visible_gpus()
    each = launcher.gpus_per_trial
    if not found and each > 1 and launcher.device is not Device.cpu:
        raise UsageError(f"hydra.launcher.gpus_per_trial={each}: no GPU is visible here; allowed is 0 or 1")
    if found and each > len(found):
        raise UsageError(f"hydra.launcher.gpus_per_trial={each}: allowed is up to {len(found)}, the GPUs visible here")
    if each <= 1:
        return found * launcher.trials_per_gpu
    return [",".join(found[start : start + each]) for start in range(0, len(found) - each + 1, each)]


def visible_gpus() -> list[str]:
    """Indices or UUIDs of the GPUs this process may use, asked of the driver and not of torch."""
    masked = os.environ.get("CUDA_VISIBLE_DEVICES")
    if masked is not None:
        listed = (part.strip() for part in masked.split(","))
        return list(takewhile(lambda part: part not in ("", "-1"), listed))  # CUDA reads no further
    return [str(index) for index in range(len(gpus()))]
