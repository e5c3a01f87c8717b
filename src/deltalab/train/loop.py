"""The training loop of one trial: step, log, evaluate, checkpoint, stop."""

import contextlib
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deltalab.data.batch import make_task
from deltalab.data.text import TextTask
from deltalab.evals.accuracy import metrics_of, totals
from deltalab.evals.results import weights_sha256
from deltalab.evals.samples import page, samples
from deltalab.model.accounting import cost
from deltalab.model.init import initialise
from deltalab.model.language_model import LanguageModel
from deltalab.spec.data import TextSpec
from deltalab.spec.train import Precision
from deltalab.spec.trial import TrialSpec
from deltalab.track.files import write_atomic
from deltalab.track.journal import Journal, glance
from deltalab.train.checkpoint import WEIGHTS, Checkpoints, latest_checkpoint, load_checkpoint, save_weights
from deltalab.train.distributed import ALONE, World
from deltalab.train.feed import Feed, Share
from deltalab.train.loss import Scorer
from deltalab.train.meters import Clock, Meters, Phase
from deltalab.train.optim import learning_rate, make_optimizer
from deltalab.train.profiling import Profile
from deltalab.train.recorder import Recorder
from deltalab.train.spikes import DEVIATIONS, Spikes
from deltalab.train.strategy import choose, make_replica, one_pass, whole, whole_model
from deltalab.train.suites import TrialSuites


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
        ConfigError: the parts of a batch, or the shares of the model, do not divide among the ranks; a suite has no
            such task or length.
    """

    def __init__(
        self, spec: TrialSpec, run_dir: Path, device: torch.device, journal: Journal, world: World = ALONE
    ) -> None:
        self.spec, self.run_dir, self.device, self.world = spec, run_dir, device, world
        self._parts = spec.train.parts(world.size)
        torch.manual_seed(spec.seed)
        self.clock, self.journal = Clock(), Recorder(journal)
        self.task = make_task(spec.data, spec.seed)
        self.model = build_model(spec, device)
        apart = isinstance(spec.data, TextSpec) and spec.data.reset  # then every batch has another number of documents
        scorer = Scorer(self.model, compiled=spec.train.compile, dynamic=None if apart else False)
        self._replica = make_replica(scorer, spec.train, choose(spec, world, device), world)
        self.optimizer = make_optimizer(self.model, spec.train)
        self.step = self._saved = 0
        self._worst = torch.zeros((), device=device)  # largest loss so far, NaN once one was
        position: dict[str, Any] = {}
        checkpoint = world.share(latest_checkpoint(run_dir))
        if checkpoint is not None:
            position = load_checkpoint(checkpoint, self.model, self.optimizer)
            self.step = self._saved = position["step"]
        self._checkpoints = Checkpoints(
            run_dir, self.model, self.optimizer, spec.train.keep_checkpoints, self.journal.check, world
        )
        self._spikes = Spikes(device, position.get("spikes"))
        if world.main:  # at once: checkpoints and every rank's suites are read with it
            self.journal.check()
            self.task.save_tokenizer(run_dir)
        world.meet()
        self.suites = TrialSuites(spec, run_dir, self.journal, world)
        rows, steps = world.rows(spec.train.batch_size), range(self.step, spec.train.steps)
        self._feed = Feed(self.task, spec.train.batch_size, rows, device, steps)
        self._meters = Meters(spec, device, world.size, self.clock, self.step)
        self._profile = Profile(spec.train.profile and world.main, run_dir, device, steps, self._profiled)
        self._before = glance(run_dir).seconds  # running time of earlier executions

    def run(self, stop: Callable[[], bool]) -> bool:
        """Train and measure to the end, or until ``stop()`` asks on any rank: then a checkpoint is written and False
        returned.

        Where ``train.max_hours`` are over first, that is the end, with a checkpoint too.

        Raises:
            Diverged: the loss is NaN or over its bound.
        """
        with self.journal, self._feed, self._checkpoints:
            self._meters.start(self.step)
            with self._profile:
                finished = self._train(stop)
            if not finished or self.step < self.spec.train.steps:
                self.save()
            return finished and self._finish(stop)

    def _finish(self, stop: Callable[[], bool]) -> bool:
        """What comes after the last step; False where ``stop()`` asks before all suites are measured."""
        self.evaluate()
        if self.spec.eval.sample_every:
            self.sample()
        self._checkpoints.wait()
        if self.world.main:
            self.journal.check()
        save_weights(self.run_dir / WEIGHTS, self.model, self.world)
        if not self.spec.eval.suites:
            return True
        self.save()  # suites may take longer than the time that is left
        final = weights_sha256(self.run_dir / WEIGHTS) if self.world.main else ""
        return self._measure(stop, self.world.share(final))

    def _train(self, stop: Callable[[], bool]) -> bool:
        """All steps there are left, and time for, with what comes between; False as soon as a rank is asked to stop."""
        train, evaluation = self.spec.train, self.spec.eval
        while self.step < train.steps:
            if self.suites.due(self.step) and not self._measure(stop):
                return False
            if self.world.any(stop()):
                return False
            if train.max_hours is not None and self.world.any(self.world.main and self._seconds_left <= 0):
                break
            self._train_step()
            self._profile.step()
            if self.step == train.steps:
                break
            if evaluation.every and self.step % evaluation.every == 0:
                self.evaluate()
            if evaluation.sample_every and self.step % evaluation.sample_every == 0:
                self.sample()
            if train.checkpoint_every and self.step % train.checkpoint_every == 0:
                self.save()
        return True

    def _measure(self, stop: Callable[[], bool], weights: str | None = None) -> bool:
        """The suites, as ``TrialSuites.measure``."""
        with self.clock.spending(Phase.evaluation):
            return self.suites.measure(whole_model(self.model, self.spec), self.step, stop, weights)

    def evaluate(self) -> dict[str, float]:
        """Measure on held-out sequences and journal what comes out. Each rank measures its share of the batches."""
        self._check_loss(float(self._worst))
        with self.clock.spending(Phase.evaluation):
            model, share = whole_model(self.model, self.spec), (self.world.rank, self.world.size)
            sums = totals(model, self.task, self.spec.eval, self.device, self._autocast(), share)
            values = metrics_of(self.world.total(sums))
        self.journal.metrics(self.step, values)
        self._check_loss(values["eval/loss"])
        return values

    def sample(self) -> None:
        """Let the model write on from held-out text, into the run directory's ``samples/``. Only the main rank does."""
        with self.clock.spending(Phase.samples):
            model = whole_model(self.model, self.spec)  # which takes every rank
            if not self.world.main:
                return
            assert isinstance(self.task, TextTask), "TrialSpec allows samples of texts alone"
            file = f"samples/step-{self.step:08d}.txt"
            (self.run_dir / file).parent.mkdir(exist_ok=True)
            write_atomic(self.run_dir / file, page(self.step, samples(model, self.task, self.spec.eval)))
            self.journal.note(self.step, f"samples: {self.run_dir / file}", files=[file])

    def save(self) -> None:
        """Begin a checkpoint of the present step, unless it is there."""
        if self.step > self._saved:
            self._saved = self.step
            position = {"seed": self.spec.seed, "spikes": self._spikes.state}
            with self.clock.spending(Phase.checkpoint):
                if self.world.main:
                    self.journal.check()
                self._checkpoints.begin(self.step, position)

    def _train_step(self) -> None:
        train = self.spec.train
        lr = learning_rate(train, self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        with self.clock.spending(Phase.data):
            share = self._feed.take()
        logged = (self.step + 1) % train.log_every == 0 or self.step + 1 in (1, train.steps)
        loss, correct = self._backward(share, logged)
        self._worst = torch.maximum(self._worst, loss)
        self._spikes.see(loss)
        norm = whole(torch.nn.utils.clip_grad_norm_(self.model.parameters(), train.clip))
        self.optimizer.step()
        self.step += 1
        self.world.meet()  # whoever reads this step's figures waits for a GPU that waits for every rank's
        if logged:
            self._log(torch.stack([loss, correct, norm]), share.scored, lr)

    def _backward(self, share: Share, count_correct: bool) -> Tensor:
        """Leave the batch's gradients in the parameters; returns its loss and its number of correct predictions [2]."""
        self.optimizer.zero_grad(set_to_none=True)
        figures = torch.zeros(2, device=self.device)
        for number, (tokens, targets, starts) in enumerate(share.parts(self._parts), start=1):
            with one_pass(self._replica, last=number == self._parts):
                with self._autocast():
                    summed, correct = self._replica(tokens, targets, count_correct, starts)
                loss = summed / share.scored
                loss.backward()
            figures += torch.stack([loss.detach(), correct])
        self.world.add(figures)
        return figures

    def _log(self, figures: Tensor, scored: int, lr: float) -> None:
        """Journal a step's figures: the one place where the loop waits for a GPU.

        Args:
            figures: loss, correct predictions and norm of the gradient, [3].
            scored: of how many predictions.
            lr: learning rate.

        Raises:
            Diverged: the loss is NaN or over its bound.
        """
        both = torch.cat([figures.double(), self._worst.double()[None], self._spikes.figures])
        loss, correct, norm, worst, spikes, spike = both.tolist()
        with self.clock.spending(Phase.log):
            values = {
                "train/loss": loss,
                "train/accuracy": correct / scored,
                "train/grad_norm": norm,
                "train/lr": lr,
                "train/loss_spikes": spikes,
                **self._meters.measure(self.step, self._seconds_left),
            }
            self.journal.metrics(self.step, values)
            if spike:
                text = f"loss spike: {spike:.4g}, over its running mean + {DEVIATIONS:g} deviations"
                self.journal.note(self.step, text, spikes=int(spikes))
                self._spikes.looked()
        self._check_loss(worst)

    def _profiled(self, step: int, text: str, files: list[str]) -> None:
        self.journal.note(step, text, files=files)

    @property
    def _seconds_left(self) -> float:
        """Running time that ``train.max_hours`` leaves to the trial, as this rank counts it."""
        hours = self.spec.train.max_hours
        return math.inf if hours is None else max(0.0, 3600 * hours - self._before - self.clock.seconds)

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
