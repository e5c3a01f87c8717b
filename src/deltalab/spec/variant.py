"""A named point of the gated delta-rule lattice, as data (arXiv 2605.22791, eq. 9 and 10).

S̄_t = Diag(exp g_t) S_{t-1}                              g: none | scalar | channel
S_t = S̄_t + k_t (w_t ⊙ v_t − S̄_tᵀ (b_t ⊙ k_t))ᵀ        b: none | scalar | channel;  w: one | scalar | channel
"""

from dataclasses import dataclass
from enum import Enum

from deltalab.errors import ConfigError


class Decay(Enum):
    """Granularity of the log-decay g."""

    none = "none"
    scalar = "scalar"
    channel = "channel"


class Erase(Enum):
    """Granularity of the erase gate b; ``none`` is b = 0 (no erase, linear attention)."""

    none = "none"
    scalar = "scalar"
    channel = "channel"


class Write(Enum):
    """Granularity of the write gate w; ``one`` is w = 1."""

    one = "one"
    scalar = "scalar"
    channel = "channel"


class Narrowing(Enum):
    """How a scalar gate is made: ``pool`` averages a full-width gate over its channels (projections
    unchanged, as the paper's Table 5), ``project`` uses a projection of one value per head."""

    pool = "pool"
    project = "project"


class Layer(Enum):
    """An entry of the layer pattern: the variant's own mixer, sliding-window or full softmax attention."""

    mixer = "mixer"
    swa = "swa"
    attention = "attention"


@dataclass(frozen=True, kw_only=True)
class VariantSpec:
    """One variant. ``name`` is a label and not part of a trial's identity.

    Attributes:
        decay: granularity of the log-decay.
        erase: granularity of the erase gate.
        write: granularity of the write gate.
        tie: erase and write share one scalar gate (β of DeltaNet, Gated DeltaNet, KDA).
        narrowing: how scalar gates are made from channel-wise ones.
        erase_range: upper end of the erase gate, 1 or 2 (2 allows negative eigenvalues).
        pattern: token mixers tiled over depth; ``[mixer, swa]`` is a hybrid.
    """

    name: str
    decay: Decay
    erase: Erase
    write: Write
    tie: bool
    narrowing: Narrowing = Narrowing.project
    erase_range: int = 1
    pattern: list[Layer]

    def __post_init__(self) -> None:
        if self.tie and (self.erase is not Erase.scalar or self.write is not Write.scalar):
            found = f"true with erase={self.erase.value}, write={self.write.value}"
            raise ConfigError(
                "variant.tie", found, "true only with erase=scalar and write=scalar (b lives on keys, w on values)"
            )
        if self.erase_range not in (1, 2):
            raise ConfigError("variant.erase_range", self.erase_range, (1, 2))
        if self.erase_range == 2 and self.erase is Erase.none:
            raise ConfigError("variant.erase_range", 2, "1 when variant.erase=none (there is no erase gate to widen)")
        if not self.pattern:
            raise ConfigError("variant.pattern", "[]", f"a non-empty list of {', '.join(m.value for m in Layer)}")
