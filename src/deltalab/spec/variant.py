"""Which token mixers a model has, as data: a named point of the gated delta-rule lattice (arXiv 2605.22791, eq. 9 and
10), or a baseline beside it (Mamba-2, Mamba-3, softmax attention).

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


class Mixer(Enum):
    """A variant's own mixer, what ``mixer`` stands for in its pattern; each is an entry of a pattern by itself too."""

    gated_delta = "gated_delta"
    mamba2 = "mamba2"
    mamba3 = "mamba3"
    attention = "attention"


class Layer(Enum):
    """An entry of the layer pattern: the variant's own mixer, or one by name; ``swa`` is sliding-window attention."""

    mixer = "mixer"
    gated_delta = "gated_delta"
    mamba2 = "mamba2"
    mamba3 = "mamba3"
    swa = "swa"
    attention = "attention"


MAMBA = frozenset({Layer.mamba2, Layer.mamba3})
"""Layers with a width, heads and a state of their own (``ModelSpec.expand``, ``mamba_head_dim``, ``d_state``)."""


@dataclass(frozen=True, kw_only=True)
class VariantSpec:
    """One variant. ``name`` is a label and not part of a trial's identity.

    The gates are those of ``gated_delta`` layers, and stay at their defaults where neither ``mixer`` nor the pattern
    names it; so does ``rank`` with ``mamba3``.

    Attributes:
        mixer: the token mixer that ``mixer`` in the pattern stands for.
        rank: R of ``mamba3`` layers, inputs and outputs that share a state: 1 is SISO, above it MIMO.
        decay: granularity of the log-decay.
        erase: granularity of the erase gate.
        write: granularity of the write gate.
        tie: erase and write share one scalar gate (β of DeltaNet, Gated DeltaNet, KDA).
        narrowing: how scalar gates are made from channel-wise ones.
        erase_range: upper end of the erase gate, 1 or 2 (2 allows negative eigenvalues).
        pattern: token mixers tiled over depth; ``[mixer, swa]`` is a hybrid, ``[mamba2, mamba2, gated_delta]`` another.
    """

    name: str
    mixer: Mixer = Mixer.gated_delta
    rank: int = 1
    decay: Decay = Decay.none
    erase: Erase = Erase.none
    write: Write = Write.one
    tie: bool = False
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
        self._refuse_what_no_layer_has()

    def _refuse_what_no_layer_has(self) -> None:
        if self.rank < 1:
            raise ConfigError("variant.rank", self.rank, "a whole number from 1")
        # The pattern may leave the variant's mixer out: studies cross the two.
        if self.rank > 1 and self.mixer is not Mixer.mamba3 and Layer.mamba3 not in self.pattern:
            raise ConfigError("variant.rank", self.rank, "1 where no layer is mamba3")
        if self.mixer is Mixer.gated_delta or Layer.gated_delta in self.pattern:
            return
        for key in ("decay", "erase", "write", "tie"):
            value, default = getattr(self, key), getattr(VariantSpec, key)
            if value is not default:
                found, allowed = (str(getattr(x, "value", x)).lower() for x in (value, default))
                said = f"{allowed} where no layer is gated_delta (variant.mixer={self.mixer.value})"
                raise ConfigError(f"variant.{key}", found, said)

    def layers(self, depth: int | None) -> list[Layer]:
        """The token mixer of each block of a resolved depth: the pattern tiled, ``mixer`` by its name."""
        assert depth is not None, "a resolved ModelSpec has a depth"
        own = Layer(self.mixer.value)
        named = [own if layer is Layer.mixer else layer for layer in self.pattern]
        return [named[i % len(named)] for i in range(depth)]
