"""Shape of the language model that carries the mixers."""

from dataclasses import dataclass

from deltalab.errors import ConfigError

BUDGETING = ("parameters", "budget_vocab", "recurrent_depth", "mlp_multiple")
"""Fields of a ModelSpec that only say how depth and MLP width are found: a trial computes the same without them."""
PAPER_LENGTH = 4096
"""Training length at which the paper's decay range U(1, 16) holds (App. C)."""


def decay_range_for(length: int) -> tuple[float, float]:
    """Range (low, high) of exp(a), the decay rate's scale, for a training length in tokens.

    The paper draws exp(a) from U(1, 16) at 4,096 tokens; at 64 tokens no decaying variant learns a recall
    task from there, and all learn it from U(0.05, 0.5) (measured). This is the power law through both
    points, constant above 4,096.
    """
    ratio = min(1.0, length / PAPER_LENGTH)
    return round(ratio**0.72, 4), round(16 * ratio**0.833, 4)


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """A stack of pre-norm blocks: x + mixer(norm x); x + SwiGLU(norm x).

    What is null among ``depth`` and ``mlp_width`` is solved for the budget ``parameters`` (``model.matching``).

    Attributes:
        parameters: budget of trainable parameters, the tied embedding among them; without effect where depth and MLP
            width are given.
        budget_vocab: tokens of the vocabulary that the budget is counted with, so that the blocks are the same for all
            data; null counts with the data's.
        d_model: width of the residual stream.
        depth: number of blocks; the layer pattern is tiled over them. null is ``recurrent_depth`` where a layer carries
            a state, else solved.
        recurrent_depth: blocks of a model with a recurrent state, so that all of them have as much of it; null solves.
        heads: heads H of every token mixer.
        head_dim: key width K per head of the recurrent mixer.
        value_dim: value width V per head of the recurrent mixer.
        value_heads: value heads HV, H or a multiple of it (grouped value heads); null means H.
        mlp_width: hidden width of the SwiGLU; 0 leaves the MLP out, null is solved. A study may solve it (``match``).
        mlp_multiple: a solved width is a multiple of it: a GPU's matrix products want aligned rows.
        expand: inner width of Mamba layers over d_model.
        mamba_head_dim: channels P per head of Mamba layers; null makes four heads of each of ``heads``, 64 channels
            at the paper's 1.3B shape.
        d_state: state channels N of Mamba layers; null is the even number that brings their state, inner width × N,
            nearest to that of gated delta layers, value heads × K × V.
        conv_width: taps of the causal depthwise short convolution; 0 leaves it out.
        window: tokens a sliding-window attention layer sees.
        rope_base: base of the rotary positions of attention layers.
        norm_eps: epsilon of every RMSNorm.
        decay_range: [low, high] of exp(a); null follows the training length.
        dt_range: [low, high] of the initial softplus(δ), log-uniform.
        vocab_size: tokens of the embedding; null follows the data.
    """

    parameters: int | None = None
    budget_vocab: int | None = None
    d_model: int = 64
    depth: int | None = 2
    recurrent_depth: int | None = None
    heads: int = 2
    head_dim: int = 16
    value_dim: int = 16
    value_heads: int | None = None
    mlp_width: int | None = 128
    mlp_multiple: int = 1
    expand: int = 2
    mamba_head_dim: int | None = None
    d_state: int | None = None
    conv_width: int = 4
    window: int = 2048
    rope_base: float = 10000.0
    norm_eps: float = 1e-6
    decay_range: list[float] | None = None
    dt_range: list[float]
    vocab_size: int | None = None

    def __post_init__(self) -> None:
        for key in ("d_model", "heads", "head_dim", "value_dim", "mlp_multiple", "expand", "window"):
            if getattr(self, key) < 1:
                raise ConfigError(f"model.{key}", getattr(self, key), "a whole number from 1")
        self._refuse_what_cannot_be_solved()
        for key in ("rope_base", "norm_eps"):
            if not getattr(self, key) > 0:
                raise ConfigError(f"model.{key}", getattr(self, key), "a number above 0")
        for key in ("mlp_width", "conv_width"):
            if (getattr(self, key) or 0) < 0:
                raise ConfigError(f"model.{key}", getattr(self, key), "a whole number from 0")
        if self.d_model % (2 * self.heads):
            raise ConfigError(
                "model.heads", self.heads, f"a divisor of model.d_model / 2 = {self.d_model // 2} (rotary pairs)"
            )
        if self.value_heads is not None and (self.value_heads < 1 or self.value_heads % self.heads):
            raise ConfigError("model.value_heads", self.value_heads, f"a multiple of model.heads = {self.heads}")
        for key in ("decay_range", "dt_range"):
            pair = getattr(self, key)
            if pair is not None and (len(pair) != 2 or not 0 < pair[0] <= pair[1]):
                raise ConfigError(f"model.{key}", pair, "two numbers, 0 < low <= high")
        for key in ("mamba_head_dim", "d_state", "depth", "recurrent_depth", "parameters", "budget_vocab"):
            if (value := getattr(self, key)) is not None and value < 1:
                raise ConfigError(f"model.{key}", value, "null or a whole number from 1")
        if self.mamba_head_dim is not None and self.inner_width % self.mamba_head_dim:
            allowed = f"a divisor of model.expand × model.d_model = {self.inner_width}"
            raise ConfigError("model.mamba_head_dim", self.mamba_head_dim, allowed)

    def _refuse_what_cannot_be_solved(self) -> None:
        allowed = "a whole number, or null with a budget, model.parameters"
        if self.parameters is None and self.mlp_width is None:
            raise ConfigError("model.mlp_width", "null", allowed)
        if self.parameters is None and self.depth is None and self.recurrent_depth is None:
            raise ConfigError("model.depth", "null", allowed)

    @property
    def inner_width(self) -> int:
        """Channels of a Mamba layer."""
        return self.expand * self.d_model
