"""Where a run can go back to, what it has changed since it began, and how it goes back or gives up."""

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from torchebm.core.checks import warn_caller
from torchebm.core.energies import NonFiniteEnergyError

from .checkpoint import (
    Checkpoint,
    checkpoint_path,
    list_checkpoints,
    load_checkpoint,
    newest_checkpoint,
    remove_checkpoint,
    step_of,
)
from .forensics import dump
from .guards import Guard, Remedy, TrainingDivergedError, TrainingWarning, Tripped
from .state import copied, unpack

if TYPE_CHECKING:
    from .trainer import Trainer

__all__ = ["QUIET_UPDATES", "Recovery", "SavedState", "recover"]

QUIET_UPDATES = 1000  # after which, if no guard has said anything, an earlier state counts as good


@dataclass
class SavedState:
    """A state that was saved, and what is known of it."""

    step: int
    quiet_since: int
    """The step from which on guards were quiet."""
    good: bool = False
    """Whether it is known to be good: what goes wrong slowly shows later."""
    memory: Checkpoint | None = None
    """The state itself, where it is not on disk."""


class Recovery:
    """Attempts, remedies, and the states to go back to, oldest first.

    Kept are the last two states and, for going back, the last two that are known to be good and the next that may
    become so. A run goes back to the newest good state, or to the oldest if none is known to be good; what it went back
    to has to prove itself anew, so that a second failure leads further back.
    """

    def __init__(self) -> None:
        self.attempt = 0
        self.remedy = Remedy(1.0, 1.0, 1.0)
        self.states: list[SavedState] = []

    def saved(self, step: int, memory: Checkpoint | None = None) -> None:
        """Takes note of a new state, and drops those that are no longer needed."""
        self.states = [state for state in self.states if state.step < step] + [SavedState(step, step, memory=memory)]
        good = [state for state in self.states if state.good]
        others = [state for state in self.states if not state.good]
        kept = {state.step for state in [*self.states[-2:], *good[-2:], *others[:1]]}
        self.states = [state for state in self.states if state.step in kept]

    def looked(self, step: int, quiet: bool) -> None:
        """Takes note of a line of metrics, and of whether guards were quiet at it."""
        for state in self.states:
            if not quiet:
                state.quiet_since = step
            state.good = state.good or step - state.quiet_since >= QUIET_UPDATES

    def target(self) -> SavedState:
        """The state to go back to."""
        return next((state for state in reversed(self.states) if state.good), self.states[0])

    def go_back(self, remedy: Remedy) -> SavedState:
        """Begins the next attempt: at an earlier state, which is returned, with a remedy on top of earlier ones."""
        target = self.target()
        self.states = [state for state in self.states if state.step <= target.step]
        target.good, target.quiet_since = False, target.step
        self.attempt += 1
        factors = {name: factor * getattr(remedy, name) for name, factor in asdict(self.remedy).items()}
        self.remedy = Remedy(**factors)
        return target

    @property
    def steps(self) -> list[int]:
        """The steps of the states that are needed."""
        return [state.step for state in self.states]

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run has to know."""
        states = [[state.step, state.quiet_since, state.good] for state in self.states]
        return {"attempt": self.attempt, "remedy": asdict(self.remedy), "states": states}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores it from `state_dict()`."""
        self.attempt, self.remedy = state["attempt"], Remedy(**state["remedy"])
        self.states = [SavedState(*known) for known in state["states"]]


def recover(trainer: "Trainer", trouble: NonFiniteEnergyError | Tripped) -> None:
    """Goes back to the last good state with a remedy, or gives up.

    Raises:
        TrainingDivergedError: If the guard does not go back, or has done so often enough, or there is nowhere to go.
    """
    recovery = trainer.recovery
    tripped = trouble if isinstance(trouble, Tripped) else _failed(trainer, trouble)
    guard, reason = tripped.guard, tripped.reason
    if trainer.out_dir is not None:
        folder = trainer.checkpoints
        recovery.states = [state for state in recovery.states if checkpoint_path(folder, state.step).exists()]
    if guard.action != "rollback" or recovery.attempt >= trainer.max_rollbacks or not recovery.states:
        raise _given_up(trainer, guard.name, reason) from (trouble if trouble is not tripped else None)
    step, seconds, target = trainer.step, trainer.seconds, recovery.go_back(guard.remedy)
    if target.memory is None:
        state = load_checkpoint(checkpoint_path(trainer.checkpoints, target.step), trainer.device)
    else:
        state = copied(target.memory)
    unpack(trainer, state)
    trainer.seconds = seconds
    trainer.generator = trainer.stream("chains")
    trainer.apply_factors()
    remedy = asdict(recovery.remedy)
    trainer.tell(step, "rollback", guard.name, reason, to_step=trainer.step, to_line=trainer.step - trainer.window.n,
                 attempt=recovery.attempt, remedy=remedy)  # fmt: skip
    _forget_newer(trainer)
    changes = "".join(f", {name.replace('_', ' ')} x {factor:.3g}" for name, factor in remedy.items() if factor != 1)
    warn_caller(
        f"step {step}: {reason} (guard {guard.name!r}). Going back to step {trainer.step}, rollback {recovery.attempt} "
        f"of {trainer.max_rollbacks}, with a new seed{changes}.",
        TrainingWarning,
    )


def _failed(trainer: "Trainer", error: NonFiniteEnergyError) -> Tripped:
    """An update without a finite loss, as the guard sees it that is there for it."""
    lines = [*trainer.metrics, {"step": trainer.step, "failure": str(error)}]
    for guard in trainer.guards:
        reason = guard.reason(lines) if guard.failures else None
        if reason is not None:
            return Tripped(guard, reason)
    return Tripped(Guard("non-finite", lambda lines: None, "stop"), str(error))


def _given_up(trainer: "Trainer", guard: str, reason: str) -> TrainingDivergedError:
    """Writes the dump, and says what happened and what is left."""
    recovery = trainer.recovery
    trainer.tell(trainer.step, "stop", guard, reason)
    after = f" after {recovery.attempt} rollback{'s' * (recovery.attempt > 1)}" if recovery.attempt else ""
    what = f"training diverged at step {trainer.step}{after}: {reason} (guard {guard!r})"
    if trainer.out_dir is None:
        return TrainingDivergedError(f"{what}; no checkpoint was written (give out_dir=).")
    if recovery.states:
        recovery.states = [state for state in recovery.states if state.step <= recovery.target().step]
        _forget_newer(trainer)
    last = newest_checkpoint(trainer.checkpoints)
    facts = {
        "step": trainer.step,
        "guard": guard,
        "reason": reason,
        "attempt": recovery.attempt,
        "remedy": asdict(recovery.remedy),
        "seed": trainer.seed,
        "last_good_checkpoint": None if last is None else last.name,
    }
    folder = trainer.out_dir / f"forensics-step-{trainer.step:08d}-attempt-{recovery.attempt}"
    seen = dump(folder, trainer.loss_fn, trainer.last_batch, trainer.metrics, facts)
    kept = "no checkpoint is left" if last is None else f"the last good checkpoint is {last}"
    return TrainingDivergedError(f"{what}; {kept}; negatives, energies and norms are in {seen}.")


def _forget_newer(trainer: "Trainer") -> None:
    """Removes checkpoints that are newer than the newest state that is trusted, the newest first."""
    if trainer.out_dir is not None:
        for path in reversed(list_checkpoints(trainer.checkpoints)):
            if step_of(path) > trainer.recovery.steps[-1]:
                remove_checkpoint(path)
