"""Peak memory of training, counted from a trial's spec. Arithmetic only, no torch.

What lies in memory at a step's worst moment, in bytes; P parameters, e bytes of the compute dtype (4, or 2 under bf16),
N tokens of a process's part of a batch, D = d_model, M the MLP's width, V_ocab the vocabulary:

    weights       4 P, fp32
    moments       8 P, AdamW's two
    casts         e P under bf16: copies of matrices that products keep for their backward pass
    activations   what every block keeps for its backward pass; with checkpointing its input alone, 4 D N a block
    block         with checkpointing, what the block that goes back keeps after all
    transient     gradients of activations in the block that goes back: 3 e M N, or those inside the recurrence
    head          norm, its gradient, and of the n tokens that the loss takes at once (``tokens_at_once``) the
                  log-probabilities, 4 V_ocab n, and twice that again going back; where there is more than one such
                  chunk also the head's gradient, of the chunks before and of the present one
    gradients     4 P, complete when the backward pass ends

Where s processes hold shares (fsdp, hsdp; ``train.strategy``), weights, moments and gradients take an s-th, and beside
them lie, with B the parameters of a block:

    gathered      what is whole at the moment: the embedding and its gradient, 8 V_ocab D; weights of two blocks, 2 e B
                  (one that computes, one on its way), and going back a block's gradient in both types, (e + 4) B
    casts         e V_ocab D: a block's gathered weights have the compute dtype already, and leave with it
    evaluation    4 P: every process measures with a copy of all weights

Going back, activations leave and gradients come, both block by block, so the peak is at one of the two ends, the head
or the first block; or it is in an evaluation, which keeps no activations but may read more tokens at once. What a block
keeps, in bytes per token (K, V: channels of all heads' keys, values; C = 2 K + V; c the kernel's chunk):

    norm          4 D, its input; twice that without a fused norm, as in plain torch
    linear        e D for each that reads a normalised stream under bf16, 4 D for all of them in fp32
    MLP           4 e M: gate, SiLU(gate), up, their product
    attention     7 e D: q, k, v, q and k rotated, the output in two layouts; a window's mask, e T over the sequences
    convolution   e C, its input; in plain torch that as often as it has taps, its output and SiLU of that
    gates         those with channels: decay 12 K (rate, step, decay in fp32), or e K where kernels take the rate;
                  erase e K, write e V
    recurrence    inputs, R, and of every chunk scores, inverse, factors and first state: ``_recurrence``
    output        8 V read-out and its norm; 3 e V gate, SiLU(gate), the last product's input

Tests hold this, for whole models, within 15 % of what a training step allocates, for every system, on a CPU and in a
GPU's form. Left out: the CUDA context, which torch's allocator does not see, fragmentation, what torch.compile saves,
and the smaller pieces of logits that liger-kernel takes.
"""

from dataclasses import dataclass

from deltalab.model.accounting import cost
from deltalab.spec.model import ModelSpec
from deltalab.spec.train import Precision, Strategy, TrainSpec
from deltalab.spec.trial import TrialSpec
from deltalab.spec.variant import Decay, Erase, Layer, Narrowing, VariantSpec, Write

WORKSPACE = 32 * 2**20
"""What matrix products take on a GPU for themselves (cuBLAS on Hopper)."""
PROCESS = 400 * 2**20
"""What a process that trains on a CPU takes beside its tensors: interpreter, torch, allocator."""


LOGITS_BYTES = 2**27
"""Most bytes of fp32 logits that the loss of training (``train.loss``) has at once."""


def tokens_at_once(vocab_size: int) -> int:
    """Of how many tokens the loss of training takes the logits at once."""
    return max(1, LOGITS_BYTES // (4 * vocab_size))


EVALUATED_BYTES = 2**31
"""Most bytes of fp32 logits that an evaluation (``evals.accuracy``) has at once, but those of one sequence."""


def sequences_at_once(vocab_size: int, length: int) -> int:
    """Of how many sequences of a batch an evaluation takes the logits at once, at most."""
    return max(1, EVALUATED_BYTES // (4 * vocab_size * length))


@dataclass(frozen=True, kw_only=True)
class Form:
    """How a trial is computed, as far as memory is concerned.

    Attributes:
        element: bytes of the compute dtype.
        gpu: fused norms and the Triton kernels; else plain torch.
    """

    element: int
    gpu: bool

    @property
    def chunk(self) -> int:
        return 64 if self.gpu else 32

    @property
    def narrow(self) -> bool:
        """Whether products have narrower operands than the weights."""
        return self.element < 4

    def norm(self, width: int) -> int:
        return 4 * width if self.gpu else 8 * width

    def convolution(self, taps: int) -> int:
        """The convolution and its SiLU, of a channel; without taps SiLU alone."""
        if taps == 0:
            return 2 * self.element
        return self.element if self.gpu else (taps + 2) * self.element

    def linears(self, count: int, width: int) -> int:
        """Inputs of as many products that read one fp32 tensor."""
        return 4 * width if self.element == 4 else count * self.element * width


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Peak memory of training in bytes.

    Attributes:
        base: ``WORKSPACE`` or ``PROCESS``.
        resident: weights and moments, there all the time.
        phases: moment of a step → what lies in memory beside them.
    """

    base: int
    resident: int
    phases: dict[str, int]

    @property
    def peak(self) -> int:
        """All of it at the worst moment."""
        return self.base + self.resident + max(self.phases.values())


def training_memory(spec: TrialSpec, gpu: bool, processes: int = 1, sharers: int = 1) -> Memory:
    """Memory of a resolved trial on each of the processes that train it together.

    Args:
        spec: the trial.
        gpu: whether it trains on a GPU, where torch's allocator counts, or on a CPU, where all of the process does.
        processes: how many divide each batch.
        sharers: how many divide weights, gradients and moments.
    """
    model, train, length = spec.model, spec.train, spec.data.train_length
    assert model.vocab_size is not None, "a resolved ModelSpec has a vocab_size"
    form = Form(element=2 if train.precision is Precision.bf16 else 4, gpu=gpu)
    sequences = train.micro_batch_size or max(1, train.batch_size // (train.accumulation * processes))
    tokens = sequences * length
    blocks = [block_of(layer, spec, form, sequences) for layer in spec.variant.layers(model.depth)]
    kept = [round(tokens * block.kept) for block in blocks]
    parameters, embedding = cost(spec.variant, model, 1).parameters, 4 * model.vocab_size * model.d_model
    gathered = _gathered(parameters, embedding, len(blocks), form) if sharers > 1 else 0
    casts = form.element * (parameters if sharers == 1 else embedding // 4) if form.narrow else 0
    transient = round(tokens * max(block.transient for block in blocks))
    gradients = 4 * parameters // sharers
    before = gradients if train.batch_size > sequences * processes else 0  # of the batch's parts before
    under_way = max(kept)
    activations = sum(kept)
    if train.activation_checkpointing:
        activations = 4 * model.d_model * tokens * len(kept)
    else:
        under_way = 0
    going_back = max(before, embedding) if sharers == 1 else before + gathered
    return Memory(
        base=WORKSPACE if gpu else PROCESS,
        resident=12 * parameters // sharers,
        phases={
            "head": before + gathered + casts + activations + head_bytes(model, form, tokens),
            "last block": going_back + casts + activations + under_way + transient,
            "first block": gradients + gathered + max(kept) + transient,
            "update": gradients,
            "evaluation": gradients + evaluation_bytes(spec, form) + (4 * parameters if sharers > 1 else 0),
        },
    )


def _gathered(parameters: int, embedding: int, depth: int, form: Form) -> int:
    """Bytes of what shares are gathered to at the worst moment; ``embedding`` is the bytes of its weights."""
    block = (parameters - embedding // 4) // depth
    return 2 * embedding + (3 * form.element + 4) * block


def sharers_of(train: TrainSpec, strategy: Strategy, processes: int, nodes: int) -> int:
    """How many processes divide weights, gradients and moments under a strategy."""
    if processes == 1 or strategy is Strategy.ddp:
        return 1
    return processes if strategy is Strategy.fsdp else train.shard_size or max(1, processes // nodes)


def fitting_strategy(spec: TrialSpec, gpu: bool, processes: int, nodes: int, memory: float | None) -> Strategy:
    """The strategy that a trial's says, and of auto the one that it stands for.

    Args:
        spec: the trial.
        gpu: as ``training_memory``.
        processes: that train it together.
        nodes: that they run on.
        memory: bytes of the GPU of each; None where that is not known or nothing is short.
    """
    given = spec.train.strategy
    if given is not Strategy.auto:
        return given
    if processes == 1 or memory is None or training_memory(spec, gpu, processes).peak <= memory:
        return Strategy.ddp
    return Strategy.fsdp if nodes == 1 else Strategy.hsdp


def head_bytes(model: ModelSpec, form: Form, tokens: int) -> int:
    """What the norm, the head and the loss (``train.loss``) take when the last chunk or the one before it goes back."""
    vocab = model.vocab_size or 0
    once, weight = min(tokens, tokens_at_once(vocab)), vocab * model.d_model
    inputs = tokens * form.norm(model.d_model) + once * form.linears(1, model.d_model)
    chunk = 12 * once * vocab
    if once == tokens:
        return inputs + tokens * 4 * model.d_model + chunk
    return inputs + tokens * 8 * model.d_model + chunk + 4 * weight + form.element * form.narrow * weight


def evaluation_bytes(spec: TrialSpec, form: Form) -> int:
    """Logits in fp32 and their log-probabilities, beside the residual stream, of the sequences read at once."""
    at_once = sequences_at_once(spec.data.vocab_size, spec.data.test_length)
    tokens = min(spec.eval.batch_size, spec.eval.sequences, at_once) * spec.data.test_length
    return tokens * (8 * (spec.model.vocab_size or 0) + 4 * spec.model.d_model)


@dataclass(frozen=True, kw_only=True)
class Block:
    """Bytes per token that the parts of a block keep for its backward pass.

    Attributes:
        mlp: the MLP and its norm.
        mixer: the mixer and its norm, the recurrence left out.
        recurrence: inside the gated delta rule.
        widest: the widest gradient of an activation of the MLP.
    """

    mlp: float
    mixer: float
    recurrence: float
    widest: int

    @property
    def kept(self) -> float:
        return self.mlp + self.mixer + self.recurrence

    @property
    def transient(self) -> float:
        """Gradients of activations while the block goes back: of the MLP's product, gate and up; or, once the MLP's
        part is gone, inside the recurrence, about as much as it keeps."""
        return max(3 * self.widest, self.recurrence - self.mlp)


def block_of(layer: Layer, spec: TrialSpec, form: Form, sequences: int) -> Block:
    """What a block keeps.

    Args:
        layer: its mixer.
        spec: the trial.
        form: how it is computed.
        sequences: how many are read at once; a mask is kept once for all of them.
    """
    model, variant, e = spec.model, spec.variant, form.element
    mlp = 0
    if model.mlp_width:
        mlp = form.norm(model.d_model) + form.linears(2, model.d_model) + 4 * e * model.mlp_width
    recurrence = 0.0
    if layer is Layer.gated_delta:
        mixer, recurrence = _gated_delta(variant, model, form)
    elif layer is Layer.mamba2:
        mixer, recurrence = _mamba2(model, form)
    elif layer is Layer.mamba3:
        mixer, recurrence = _mamba3(variant.rank, model, form)
    else:
        length = spec.data.train_length
        mask = e * length / sequences if layer is Layer.swa and model.window < length else 0
        mixer = form.linears(1, model.d_model) + 7 * e * model.d_model + mask
    widest = e * max(model.mlp_width or 0, model.d_model)
    return Block(mlp=mlp, mixer=mixer + form.norm(model.d_model), recurrence=recurrence, widest=widest)


def _gated_delta(variant: VariantSpec, model: ModelSpec, form: Form) -> tuple[float, float]:
    """The gated delta mixer (``mixers.gated_delta``, ``mixers.gates``) and the recurrence in it."""
    e, h, hv = form.element, model.heads, model.value_heads or model.heads
    keys, values = h * model.head_dim, hv * model.value_dim
    channels = 2 * keys + values
    pool = variant.narrowing is Narrowing.pool
    decays, erases = variant.decay is not Decay.none, variant.erase is not Erase.none
    writes = variant.write is not Write.one and not variant.tie
    total = float(form.linears(2 + decays + erases + writes, model.d_model))
    total += form.convolution(model.conv_width) * channels
    if decays and (variant.decay is Decay.channel or pool):
        inside = form.gpu and variant.decay is Decay.channel  # the kernels activate it
        total += e * model.head_dim + (e if inside else 12) * keys
    if erases and (variant.erase is Erase.channel or pool):
        total += e * keys
    if writes and (variant.write is Write.channel or pool):
        total += e * values
    widened = variant.decay is Decay.channel or variant.erase is Erase.channel
    rule = _recurrence(form, h, keys, values, model.head_dim, widened, variant.decay is Decay.channel, erases)
    return total + 4 * values + form.norm(values) + 3 * e * values, rule


def _recurrence(
    form: Form, heads: int, keys: int, values: int, width: int, widened: bool, channel_decay: bool, erases: bool
) -> float:
    """What the gated delta rule keeps: normalised inputs, R, and for each chunk its scores, factors and first state.

    Args:
        heads: key heads.
        keys: key channels of all heads.
        values: value channels of all heads.
        width: key channels of a head.
        widened: the factors E, Qγ and Kt have channels of their own (and γ, where the decay has).
        channel_decay: as the variant's.
        erases: there is an erase gate, so there are T and A.
    """
    squares, states = form.chunk * heads * (1 + erases), values * width / form.chunk
    if form.gpu:
        return form.element * (2 * keys + values + values + (3 + channel_decay) * keys * widened + squares + states)
    stacked = (1 + erases) * keys
    return 4 * (2 * keys + 2 * stacked + 2 * keys + keys * channel_decay + values + squares + states)


def _mamba2(model: ModelSpec, form: Form) -> tuple[float, float]:
    """The Mamba-2 mixer (``mixers.mamba2``) and the recurrence in it; B and C go to every head."""
    e, inner, n, heads = form.element, model.inner_width, model.d_state or 0, _mamba_heads(model)
    channels = inner + 2 * n
    total = form.linears(1, model.d_model) + e * (2 * inner + 2 * n + heads)
    total += (form.convolution(model.conv_width) - e) * channels  # its input is counted as the projection's
    rule = _recurrence(form, heads, heads * n, inner, n, False, False, False)
    return total + 4 * inner + form.norm(inner) + 2 * e * inner, rule


def _mamba3(rank: int, model: ModelSpec, form: Form) -> tuple[float, float]:
    """The Mamba-3 mixer (``mixers.mamba3``) and the recurrence in it, of which R inputs of a step are R tokens."""
    e, inner, n, heads = form.element, model.inner_width, model.d_state or 0, _mamba_heads(model)
    keys, turning = rank * heads * n, heads * max(1, n // 4)
    total = form.linears(1, model.d_model) + e * (2 * inner + 2 * rank * n + 3 * heads)
    total += 8 * keys + 20 * turning + 4 * rank * inner * (3 + (rank > 1)) + e * inner
    rule = rank * _recurrence(form, heads, heads * n, inner, n, False, False, False)
    return total + (6 * e * keys + e * rank * inner if rank > 1 else 0) + e * inner, rule


def _mamba_heads(model: ModelSpec) -> int:
    assert model.mamba_head_dim, "a resolved ModelSpec has a mamba_head_dim"
    return model.inner_width // model.mamba_head_dim
