"""deltalab: an ablation platform for gated delta-rule language models."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deltalab.exchange.load import load

__version__ = "0.1.0"
__all__ = ["__version__", "load"]


def __getattr__(name: str) -> Any:
    """``deltalab.load``, found when it is first asked for: importing deltalab does not import torch."""
    if name == "load":
        from deltalab.exchange.load import load

        return load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
