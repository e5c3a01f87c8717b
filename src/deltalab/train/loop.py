"""The training loop of one trial: step, log, evaluate, checkpoint, stop."""

import contextlib
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deltalab.data.batch import Batch, make_task
from deltalab.evals.accuracy import metrics_of, totals
from deltalab.model.accounting import cost
from deltalab.model.init import initialise
from deltalab.model.language_model import LanguageModel
from deltalab.spec.data import TextSpec
from deltalab.spec.train import Precision
from deltalab.spec.trial import TrialSpec
from deltalab.track.journal import Journal
from deltalab.train.checkpoint import WEIGHTS, Checkpoints, latest_checkpoint, load_checkpoint, save_weights
from deltalab.train.distributed import ALONE, World
from deltalab.train.loss import Scorer
from deltalab.train.optim import learning_rate, make_optimizer
from deltalab.train.strategy import choose, make_replica, one_pass, whole, whole_model


class Diverged(Exception):
    """The loss is NaN or above ``train.loss_bound``: a result, not a failure."""


class Trainer:
    """Holds a trial's model, optimiser, task and position.

    Args:
        spec: the frozen trial.
        run_dir: its run directory; the newest checkpoint there is resumed.
        device: where to train.
        journal: where metrics go.
        world: the ranks that train it together, each with a trainer of its own.

    Raises:
        ConfigError: the parts of a batch, or the shares of the model, do not divide among the ranks.
    """

    def __init__(
        self, spec: TrialSpec, run_dir: Path, device: torch.device, journal: Journal, world: World = ALONE
    ) -> None:
        self.spec, self.run_dir, self.device, self.journal, self.world = spec, run_dir, device, journal, world
        self._parts = spec.train.parts(world.size)
        torch.manual_seed(spec.seed)
        self.task = make_task(spec.data, spec.seed)
        self.model = build_model(spec, device)
        apart = isinstance(spec.data, TextSpec) and spec.data.reset  # then every batch has another number of documents
        scorer = Scorer(self.model, compiled=spec.train.compile, dynamic=None if apart else False)
        self._replica = make_replica(scorer, spec.train, choose(spec, world, device), world)
        self.optimizer = make_optimizer(self.model, spec.train)
        self.step = self._saved = 0
        self._worst = torch.zeros((), device=device)  # largest loss so far, NaN once one was
        checkpoint = world.share(latest_checkpoint(run_dir))
        if checkpoint is not None:
            self.step = self._saved = load_checkpoint(checkpoint, self.model, self.optimizer)["step"]
        self._checkpoints = Checkpoints(
            run_dir, self.model, self.optimizer, spec.train.keep_checkpoints, journal.check, world
        )
        self._tick = (self.step, time.perf_counter())

    def run(self, stop: Callable[[], bool]) -> bool:
        """Train to the end, or until ``stop()`` asks on any rank: then a checkpoint is written and False returned.

        Raises:
            Diverged: the loss is NaN or over its bound.
        """
        if self.world.main:  # at once: checkpoints, too, are read with it
            self.journal.check()
            self.task.save_tokenizer(self.run_dir)
        with self._checkpoints:
            return self._run(stop)

    def _run(self, stop: Callable[[], bool]) -> bool:
        train, evaluation = self.spec.train, self.spec.eval
        while self.step < train.steps:
            if self.world.any(stop()):
                self.save()
                return False
            self._train_step()
            if self.step == train.steps:
                break
            if evaluation.every and self.step % evaluation.every == 0:
                self.evaluate()
            if train.checkpoint_every and self.step % train.checkpoint_every == 0:
                self.save()
        self.evaluate()
        self._checkpoints.wait()
        if self.world.main:
            self.journal.check()
        save_weights(self.run_dir / WEIGHTS, self.model, self.world)
        return True

    def evaluate(self) -> dict[str, float]:
        """Measure on held-out sequences and journal what comes out. Each rank measures its share of the batches."""
        self._check_loss(float(self._worst))
        model, share = whole_model(self.model, self.spec), (self.world.rank, self.world.size)
        sums = totals(model, self.task, self.spec.eval, self.device, self._autocast(), share)
        values = metrics_of(self.world.total(sums))
        self.journal.metrics(self.step, values)
        self._check_loss(values["eval/loss"])
        return values

    def save(self) -> None:
        """Begin a checkpoint of the present step, unless it is there."""
        if self.step > self._saved:
            self._saved = self.step
            if self.world.main:
                self.journal.check()
            self._checkpoints.begin(self.step, {"seed": self.spec.seed})

    def _train_step(self) -> None:
        train = self.spec.train
        lr = learning_rate(train, self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        batch = self.task.train_batch(self.step, train.batch_size)
        scored = int(batch.scored.sum())
        logged = (self.step + 1) % train.log_every == 0 or self.step + 1 in (1, train.steps)
        loss, correct = self._backward(batch, scored, logged)
        self._worst = torch.maximum(self._worst, loss)
        norm = whole(torch.nn.utils.clip_grad_norm_(self.model.parameters(), train.clip))
        self.optimizer.step()
        self.step += 1
        self.world.meet()  # whoever reads this step's figures waits for a GPU that waits for every rank's
        if logged:
            self._log(float(loss), float(correct) / scored, float(norm), lr, batch.tokens.size)

    def _backward(self, batch: Batch, scored: int, count_correct: bool) -> Tensor:
        """Leave the batch's gradients in the parameters; returns its loss and its number of correct predictions [2]."""
        count, rows = self._parts, self.world.rows(self.spec.train.batch_size)
        tokens, targets = (torch.from_numpy(part[rows]).to(self.device) for part in (batch.tokens, batch.targets))
        self.optimizer.zero_grad(set_to_none=True)
        figures = torch.zeros(2, device=self.device)
        starts = None if batch.starts is None else torch.from_numpy(batch.starts[rows]).to(self.device)
        parts = [None] * count if starts is None else starts.chunk(count)
        pieces = zip(tokens.chunk(count), targets.chunk(count), parts, strict=True)
        for number, (tokens_part, targets_part, starts_part) in enumerate(pieces, start=1):
            with one_pass(self._replica, last=number == count):
                with self._autocast():
                    summed, correct = self._replica(tokens_part, targets_part, count_correct, starts_part)
                loss = summed / scored
                loss.backward()
            figures += torch.stack([loss.detach(), correct])
        self.world.add(figures)
        return figures

    def _log(self, loss: float, accuracy: float, norm: float, lr: float, tokens: int) -> None:
        """Journal a step's figures.

        Raises:
            Diverged: the loss is NaN or over its bound.
        """
        step, moment = self._tick
        self._tick = (self.step, time.perf_counter())
        values = {
            "train/loss": loss,
            "train/accuracy": accuracy,
            "train/grad_norm": norm,
            "train/lr": lr,
            "train/tokens_per_second": tokens * (self.step - step) / max(1e-9, self._tick[1] - moment),
        }
        self.journal.metrics(self.step, values)
        self._check_loss(float(self._worst))

    def _check_loss(self, loss: float) -> None:
        """Every step's loss counts; it is looked at when something is logged, so that a GPU need not wait."""
        if not math.isfinite(loss) or loss > self.spec.train.loss_bound:
            raise Diverged(f"loss {loss:.4g} by step {self.step}, allowed up to {self.spec.train.loss_bound}")

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        if self.spec.train.precision is Precision.fp32:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)


def build_model(spec: TrialSpec, device: torch.device) -> LanguageModel:
    """The trial's model with its initial values: laid out on the meta device, then allocated and filled."""
    with torch.device("meta"):
        model = LanguageModel(spec.variant, spec.model, spec.train.activation_checkpointing)
    built = sum(parameter.numel() for parameter in model.parameters())
    assert built == cost(spec.variant, spec.model, 1).parameters, "the plan promised another parameter count"
    model = model.to_empty(device=device)
    initialise(model, spec.model, spec.seed)
    return model
