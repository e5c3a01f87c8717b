"""Writing on: prompts of any lengths in, one token a step and sequence out.

Prompts are packed one behind the other and read at once, so no padding ever enters a state; then all sequences take a
step together. A sequence that has ended stays in the batch and yields nothing more.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from itertools import accumulate

import torch
from torch import Tensor

from deltalab.errors import UsageError
from deltalab.model.cache import ModelCache
from deltalab.model.language_model import LanguageModel
from deltalab.spec.sampling import SamplingSpec

EAGER_STEPS = 2
"""Steps before a CUDA graph is captured: they compile what there is to compile."""


def generate(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    sampling: SamplingSpec | None = None,
    stop: Collection[int] = (),
) -> list[list[int]]:
    """What follows each prompt, as tokens; the token that stopped a sequence is left out.

    Args:
        model: in eval mode.
        prompts: token ids, at least one each; lengths may differ.
        sampling: how tokens are chosen and how many; ``SamplingSpec()`` unless given.
        stop: tokens that end a sequence.

    Raises:
        UsageError: no prompt, an empty one, or a token that the model does not have.
    """
    written: list[list[int]] = [[] for _ in prompts]
    for row, token in stream(model, prompts, sampling, stop):
        written[row].append(token)
    return written


def stream(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    sampling: SamplingSpec | None = None,
    stop: Collection[int] = (),
    ended: Callable[[int], bool] = lambda row: False,
) -> Iterator[tuple[int, int]]:
    """(prompt, token) as they come, prompt after prompt within a step. Arguments and errors as ``generate``.

    Args:
        ended: asked after each of a prompt's tokens, whether to end it with this one.
    """
    _check(prompts, len(model.embedding))
    return _stream(model, prompts, sampling or SamplingSpec(), stop, ended)


def _stream(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    sampling: SamplingSpec,
    stop: Collection[int],
    ended: Callable[[int], bool],
) -> Iterator[tuple[int, int]]:
    device = model.embedding.device
    generator = torch.Generator(device)
    if sampling.seed is None:
        generator.seed()
    else:
        generator.manual_seed(sampling.seed)
    logits, cache = _read(model, prompts, sampling.max_tokens)
    step, running = Steps(model, cache), list(range(len(prompts)))
    for left in range(sampling.max_tokens, 0, -1):
        tokens = choose(logits, sampling, generator)
        chosen = tokens.tolist()
        running = [row for row in running if chosen[row] not in stop]
        for row in list(running):
            yield row, chosen[row]
            if ended(row):
                running.remove(row)
        if not running or left == 1:
            return
        logits = step(tokens)


class Steps:
    """``LanguageModel.step`` of one cache, on a GPU replayed from a CUDA graph, for its launches take longer than it.

    The cache must have room for all steps. What a call returns holds until the next.
    """

    def __init__(self, model: LanguageModel, cache: ModelCache) -> None:
        self._model, self._cache, self._done = model, cache, 0
        self._graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, tokens: Tensor) -> Tensor:
        self._done += 1
        if tokens.device.type != "cuda" or self._done <= EAGER_STEPS:
            return self._model.step(tokens, self._cache)
        if self._graph is None:
            self._capture(tokens)
        assert self._graph is not None
        self._tokens.copy_(tokens)
        self._graph.replay()
        self._cache.tokens += 1
        return self._logits

    def _capture(self, tokens: Tensor) -> None:
        """Record a step; none is taken."""
        read = self._cache.tokens
        self._tokens, self._graph = tokens.clone(), torch.cuda.CUDAGraph()
        # thread_local: what other threads ask of the GPU meanwhile (train.feed pins memory) does not spoil the capture
        with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
            self._logits = self._model.step(self._tokens, self._cache)
        self._cache.tokens = read


def choose(logits: Tensor, sampling: SamplingSpec, generator: torch.Generator | None = None) -> Tensor:
    """The next token of each sequence.

    Args:
        logits: [N, vocab].
        sampling: temperature and top_p.
        generator: of the draws, on the logits' device.

    Returns:
        int64 [N].
    """
    if sampling.temperature == 0:
        return logits.argmax(-1)
    probabilities = (logits.float() / sampling.temperature).softmax(-1)
    if sampling.top_p < 1:
        descending, order = probabilities.sort(-1, descending=True)
        more_probable = descending.cumsum(-1) - descending
        descending = descending.masked_fill(more_probable >= sampling.top_p, 0)  # the first is never left out
        probabilities = torch.zeros_like(probabilities).scatter(-1, order, descending)
    return torch.multinomial(probabilities, 1, generator=generator).squeeze(-1)


def _read(model: LanguageModel, prompts: Sequence[Sequence[int]], more: int) -> tuple[Tensor, ModelCache]:
    device, lengths = model.embedding.device, [len(prompt) for prompt in prompts]
    length = max(lengths) + more - 1  # the last token is not read
    if len(set(lengths)) == 1:
        return model.prefill(torch.tensor([list(prompt) for prompt in prompts], device=device), length=length)
    tokens = torch.tensor([token for prompt in prompts for token in prompt], device=device)
    return model.prefill(tokens[None], torch.tensor([0, *accumulate(lengths)], device=device), length)


def _check(prompts: Sequence[Sequence[int]], vocabulary: int) -> None:
    if not prompts:
        raise UsageError("prompts: none given; allowed is one or more")
    for number, prompt in enumerate(prompts, start=1):
        if not prompt:
            raise UsageError(f"prompt {number}: empty; allowed is one token or more")
        for token in prompt:
            if not 0 <= token < vocabulary:
                raise UsageError(f"prompt {number}: token {token}; allowed is 0 to {vocabulary - 1}")
