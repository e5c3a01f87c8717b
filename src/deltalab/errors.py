"""The exceptions a caller may meet, one root.

DeltalabError                  anything deltalab refuses or fails at; exit code 1
├── UsageError                 the caller asked for something that cannot be; exit code 2
│   ├── ConfigError            a configuration key has a value that is not allowed
│   ├── StudyError             a study file is wrong (file, key, value, what is allowed)
│   ├── NotFoundError          a study, trial or file that does not exist
│   └── MissingExtra           an optional package that is needed is not installed
├── TrialFailed                a trial of a launch failed; its traceback is in its log
├── DiskFull                   a disk is full; what was interrupted can go on from what is there
├── CannotWrite                the runs folder cannot be written
└── Busy                       another live process holds the trial
"""

from collections.abc import Iterable
from typing import Any


class DeltalabError(Exception):
    """Root of every error deltalab raises on purpose; its text is one line for the user."""

    exit_code = 1


class UsageError(DeltalabError):
    """The request itself is wrong; nothing was started."""

    exit_code = 2


class ConfigError(UsageError):
    """A configuration key holds a value that is not allowed.

    Args:
        key: dotted key as the user would type it, e.g. ``variant.tie``.
        value: the value found.
        allowed: what would have been accepted, in words.
    """

    def __init__(self, key: str, value: object, allowed: str | Iterable[object]) -> None:
        if not isinstance(allowed, str):
            allowed = "one of " + ", ".join(str(a) for a in allowed)
        self.key, self.value, self.allowed = key, value, allowed
        super().__init__(f"{key}={value}: allowed is {allowed}")

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.key, self.value, self.allowed)  # it comes back from processes whole


class StudyError(UsageError):
    """A study file is wrong.

    Args:
        file: path of the study file.
        key: dotted key inside the file.
        value: the value found.
        allowed: what would have been accepted, in words.
    """

    def __init__(self, file: object, key: str, value: object, allowed: str) -> None:
        self.file, self.key, self.value, self.allowed = file, key, value, allowed
        super().__init__(f"{file}: {key}={value}: allowed is {allowed}")


class NotFoundError(UsageError):
    """A study, trial or file that was named does not exist."""


class MissingExtra(UsageError, ImportError):
    """An optional package that is needed is not installed."""


class TrialFailed(DeltalabError):
    """At least one trial of a launch failed."""


class DiskFull(DeltalabError):
    """A disk is full; what was interrupted can go on from what is there."""


class CannotWrite(DeltalabError):
    """The runs folder cannot be written."""


class Busy(DeltalabError):
    """Another live process runs this trial."""
