"""deltalab: an ablation platform for gated delta-rule language models."""

__version__ = "0.1.0"
