"""What cells are made equal in, and how far from it each one is: parameters, and the state of a recurrent layer."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from deltalab.model.matching import STATE_TOLERANCE, counted, solve_mlp_width
from deltalab.spec.study import Match, StudySpec
from deltalab.spec.trial import TrialSpec
from deltalab.study.ledger import CellRecord


@dataclass(frozen=True, kw_only=True)
class Budget:
    """A number of parameters that models are held against.

    Attributes:
        parameters: how many.
        vocab: tokens of the vocabulary that they are counted with; None is each model's own.
        stated: the model's configuration states it; else it is a model's count.
    """

    parameters: int
    vocab: int | None
    stated: bool

    def mismatch(self, spec: TrialSpec) -> float:
        """Relative difference of a resolved trial's parameters."""
        return counted(spec.variant, replace(spec.model, budget_vocab=self.vocab)) / self.parameters - 1

    def match(self, spec: TrialSpec) -> TrialSpec:
        """The trial with the MLP width that comes nearest; one without an MLP stays as it is."""
        if not spec.model.mlp_width:
            return spec
        model = replace(spec.model, parameters=self.parameters, budget_vocab=self.vocab)
        return replace(spec, model=replace(model, mlp_width=solve_mlp_width(spec.variant, model, self.parameters)))


def budget_of(spec: TrialSpec) -> Budget:
    """The budget that a resolved trial's width was solved for, or its own count."""
    model = spec.model
    if model.parameters is not None:
        return Budget(parameters=model.parameters, vocab=model.budget_vocab, stated=True)
    own = counted(spec.variant, replace(model, budget_vocab=None))
    return Budget(parameters=own, vocab=None, stated=False)


def mismatches(study: StudySpec, cells: Iterable[CellRecord]) -> list[str]:
    """A line for each cell that misses what it should be equal in by more than is tolerated."""
    lines = []
    for cell in cells:
        if cell.excluded is not None:
            continue
        wanted = "the baseline" if cell.budget is None else f"the budget of {cell.budget:,}"
        if abs(cell.mismatch) > study.tolerance and (cell.budget is not None or study.match is not Match.none):
            lines.append(
                f"{cell.name}: {cell.parameters:,} parameters, {cell.mismatch:+.2%} from {wanted}, cannot be matched "
                f"within {study.tolerance:.2%} by model.mlp_width"
            )
        if abs(cell.state_mismatch) > STATE_TOLERANCE:
            lines.append(
                f"{cell.name}: {cell.layer_state:,} floats of state in a recurrent layer, {cell.state_mismatch:+.2%} "
                "from model.heads × head_dim × value_dim of the gated delta rule"
            )
    return lines
