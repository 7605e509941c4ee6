"""The one training loop."""

import math
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from torchebm.core.allocator import keep_freed_memory
from torchebm.core.checks import integer, number, warn_caller
from torchebm.core.energies import NonFiniteEnergyError
from torchebm.core.interruption import Interruption
from torchebm.core.loss import BaseLoss, LossOutput
from torchebm.core.model import BaseModel
from torchebm.core.progress import progress_bar
from torchebm.core.random import generator_for
from torchebm.core.schedulers import BaseScheduler, as_scheduler

from .batches import Batches
from .checkpoint import (
    list_checkpoints,
    load_checkpoint,
    newest_checkpoint,
    save_checkpoint,
    unwritten,
)
from .control import StepSizeControl, StepSizeScale
from .ema import ExponentialMovingAverage
from .guards import Guard, Line, TrainingDivergedError, TrainingWarning, Tripped, checked_guards
from .records import Records, read_metrics, read_records
from .rollback import Recovery, recover
from .state import State, copied, packed, unpack
from .telemetry import Window, running_gap, uniform_noise, written

__all__ = ["Trainer", "TrainingDivergedError", "read_metrics"]

_RANK = 0  # one process; scaling out gives each its own


class Trainer:
    """Runs a loss over data: updates, averages, logs, checkpoints, resumes; watches itself, and recovers.

    Args:
        loss_fn: What to minimise; it refers to the model.
        optimizer: Over the model's parameters; Adam with `learning_rate` if left out.
        learning_rate: Of that Adam.
        learning_rate_schedule: A factor on every learning rate, by step: a schedule, a callable, or a number.
        ema_decay: Decay of the weights' moving average; `None` for no average.
        grad_clip_norm: Limit on the norm of the parameters' gradient.
        out_dir: Where `metrics.jsonl` and `checkpoints/` go; nothing is written if left out.
        seed: Key of the run's random streams. The global generator is left alone, but saved, for dropout.
        log_every: Updates whose figures are averaged into one line of metrics.
        checkpoint_every: Updates between checkpoints. The last two are kept, and those that a rollback may need.
        guards: What is watched, and what is done about it; `default_guards()` if left out. With none, `()`, a run still
            stops at a loss, an energy or a gradient that is not finite.
        max_rollbacks: How often a run may go back before it gives up.
        step_size_control: Steers the step size of the loss's sampler while the model trains.

    Attributes:
        step: Updates done.
        metrics: What was logged, one dict a line, but for what a rollback took back.
        events: What guards did, one dict each.

    Example:
        >>> from torchebm.core import EnergyModel
        >>> from torchebm.losses import ContrastiveDivergence
        >>> from torchebm.samplers import LangevinDynamics
        >>> model = EnergyModel(torch.nn.Sequential(torch.nn.Linear(2, 16), torch.nn.SiLU(), torch.nn.Linear(16, 1)))
        >>> loss_fn = ContrastiveDivergence(model, LangevinDynamics(model), persistent=True, buffer_size=256)
        >>> trainer = Trainer(loss_fn, ema_decay=0.99)
        >>> averaged = trainer.fit(torch.randn(1000, 2), n_steps=20, batch_size=64, progress=False)
        >>> trainer.step, averaged(torch.zeros(5, 2)).shape
        (20, torch.Size([5]))
    """

    def __init__(self, loss_fn: BaseLoss, optimizer: torch.optim.Optimizer | None = None, *,
                 learning_rate: float = 1e-3,
                 learning_rate_schedule: float | BaseScheduler | Callable[[int], float] = 1.0,
                 ema_decay: float | None = None, grad_clip_norm: float | None = None, out_dir: str | Path | None = None,
                 seed: int = 0, log_every: int = 50, checkpoint_every: int = 1000,
                 guards: Sequence[Guard] | None = None, max_rollbacks: int = 3,
                 step_size_control: StepSizeControl | None = None) -> None:  # fmt: skip
        if not isinstance(loss_fn, BaseLoss):
            raise TypeError(f"loss_fn must be a BaseLoss, such as ContrastiveDivergence; got {type(loss_fn).__name__}.")
        self.loss_fn, self.model = loss_fn, loss_fn.model
        self.parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        if not self.parameters:
            raise ValueError("the model has no parameter that requires a gradient: there is nothing to train.")
        if optimizer is None:
            optimizer = torch.optim.Adam(self.parameters, lr=number("learning_rate", learning_rate, above=0.0))
        self.optimizer = optimizer
        self.learning_rates = [group["lr"] for group in optimizer.param_groups]
        self.learning_rate_schedule = as_scheduler("learning_rate_schedule", learning_rate_schedule)
        self.ema = None if ema_decay is None else ExponentialMovingAverage(self.model, ema_decay)
        self.grad_clip_norm = None if grad_clip_norm is None else number("grad_clip_norm", grad_clip_norm, above=0.0)
        self.out_dir = None if out_dir is None else Path(out_dir)
        self.seed = integer("seed", seed)
        self.log_every = integer("log_every", log_every, at_least=1)
        self.checkpoint_every = integer("checkpoint_every", checkpoint_every, at_least=1)
        self.guards = checked_guards(guards)
        self.max_rollbacks = integer("max_rollbacks", max_rollbacks)
        if step_size_control is not None:
            step_size_control.check(loss_fn.sampler)
        self.step_size_control = step_size_control
        self.recovery = Recovery()
        self.step_size = StepSizeScale(loss_fn.sampler)
        self.k_steps: int | None = getattr(loss_fn, "k_steps", None)  # as given; a remedy may raise it
        self.generator = self.stream("chains")
        self.step = 0
        self.records = Records(None)
        self.window = Window()
        self.seconds = 0.0
        self.last_batch: Any = None

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """The lines of figures that led to the present state."""
        return self.records.lines

    @property
    def events(self) -> list[dict[str, Any]]:
        """What guards did."""
        return [record for record in self.records.all if "event" in record]

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.parameters[0].device

    @property
    def trained_model(self) -> BaseModel:
        """The averaged model if there is an average, the model itself otherwise."""
        return self.model if self.ema is None else self.ema.model

    def fit(self, data: Tensor | Dataset, n_steps: int, batch_size: int = 128, *, resume: bool = False,
            progress: bool = True) -> BaseModel:  # fmt: skip
        """Trains until `n_steps` updates have been done in total.

        The process keeps the memory that tensors on the CPU give back: see `torchebm.core.keep_freed_memory`.

        Args:
            data: A tensor `[n, *event]` or a map-style dataset of points, on the model's device.
            n_steps: Updates in total, those before a resumption included.
            batch_size: Points per update.
            resume: Continue from the newest complete checkpoint in `out_dir`, bit for bit, or begin if there is none.
            progress: Show a progress bar with step, energy gap and time left.

        Returns:
            The averaged model if there is an average, the model itself otherwise.

        Raises:
            TrainingDivergedError: If a guard stops the run, or rollbacks did not help, or an update was not finite and
                no guard is there to go back. The last good checkpoint is kept and named, and a dump is written.
            FileExistsError: If `out_dir` holds a run and `resume` is false.
            OSError: If something cannot be written; the last complete checkpoint is left as it is.
            KeyboardInterrupt: After an interrupt, once the step at hand is done and a checkpoint is written.
        """
        batches = Batches(data, batch_size, self._key("batches"))
        self._begin(integer("n_steps", n_steps), resume)
        batches.reseed(self._key("batches"))
        self.loss_fn.train()
        self.model.train()
        keep_freed_memory()
        with Interruption() as interruption, progress_bar(progress, n_steps, "training", initial=self.step) as tick:
            while self.step < n_steps or self.window.n:
                before, line = self.step, None
                try:
                    if self.step < n_steps:
                        self._update(batches)
                        if self.step % self.log_every == 0:
                            line = self._close_window(batches)
                        self._save_if_due(batches, n_steps, interruption.pressed)
                    if self.step >= n_steps:
                        line = self._close_window(batches) or line
                except (NonFiniteEnergyError, Tripped) as trouble:
                    recover(self, trouble)
                    batches.reseed(self._key("batches"))
                gap = None if line is None else line.get("energy_gap")
                tick(self.step - before, **({} if gap is None else {"gap": f"{gap:+.3f}"}))
                if interruption.pressed:
                    saved = "resume=True continues from there" if self.out_dir else "nothing is saved without out_dir="
                    raise KeyboardInterrupt(f"stopped after step {self.step}; {saved}.")
        return self.trained_model

    def _save_if_due(self, batches: Batches, n_steps: int, interrupted: bool) -> None:
        """Writes a checkpoint where one is due; what has diverged is not saved over what has not."""
        if self.step % self.checkpoint_every == 0 or self.step >= n_steps:
            if self.window.n:
                self._watch([*self.metrics, self._line(batches)], whole=False)
            self._save(to_go_back=True)
        elif interrupted:
            self._save(to_go_back=False)

    def _update(self, batches: Batches) -> None:
        """One update: loss, gradient, optimiser, average, and what there is to note."""
        began = time.perf_counter()
        self.last_batch = batches[self.step]
        output = self.loss_fn.evaluate(self.last_batch, generator=self.generator)
        gradient_norm = self._descend(output)
        self.loss_fn.commit()
        if self.ema is not None:
            self.ema.update(self.model)
        self.step += 1
        self.window.add({"loss": output.loss.detach(), "gradient_norm": gradient_norm} | output.metrics)
        if self.step_size_control is not None and self.step_size_control.update(output.metrics):
            self.apply_factors()
        self.seconds += time.perf_counter() - began

    def _descend(self, output: LossOutput) -> Tensor:
        """One step of the optimiser, if the gradient is finite; returns the gradient's norm before clipping."""
        factor = self.learning_rate_schedule.value(self.step) * self.recovery.remedy.learning_rate
        for group, learning_rate in zip(self.optimizer.param_groups, self.learning_rates, strict=True):
            group["lr"] = learning_rate * factor
        self.optimizer.zero_grad(set_to_none=True)
        output.loss.backward()
        limit = float("inf") if self.grad_clip_norm is None else self.grad_clip_norm
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, limit)
        if not bool(norm.isfinite()):
            raise NonFiniteEnergyError(
                f"the gradient of the parameters has norm {float(norm)}, at a loss of "
                f"{float(output.loss.detach()):.4g}."
            )
        self.optimizer.step()
        return norm

    # watching ---------------------------------------------------------------------------------------------------------

    def _line(self, batches: Batches) -> dict[str, Any]:
        """The line of metrics of the window so far."""
        means = self.window.means()
        batch = batches[self.step - 1] if self.last_batch is None else self.last_batch
        points = batch[0] if isinstance(batch, (tuple, list)) else batch
        if isinstance(points, Tensor) and points.is_floating_point():
            noise = uniform_noise(batches.box_around(points), len(points), self._key("noise", self.step))
            means |= {name: float(value) for name, value in self.loss_fn.survey(points, noise).items()}
        if "energy_gap" in means:
            means["energy_gap_mean"] = running_gap(self.metrics, means["energy_gap"])
        if self.step_size.given is not None:
            means["step_size"] = float(self.loss_fn.sampler.get_scheduled_value("step_size"))
        learning_rate = float(self.optimizer.param_groups[0]["lr"])
        line = {"step": self.step} | means | {"learning_rate": learning_rate, "seconds": round(self.seconds, 3)}
        return written(line)

    def _close_window(self, batches: Batches) -> dict[str, Any] | None:
        """Logs a line and shows it to the guards; `None` for an empty window."""
        if not self.window.n:
            return None
        line = self._line(batches)
        self.window.clear()
        self._write(line)
        self.recovery.looked(self.step, self._watch(self.metrics))
        return line

    def _watch(self, lines: Sequence[Line], *, whole: bool = True) -> bool:
        """Asks the guards, and tells whether none had anything new to say; of a part of a window no one is warned."""
        quiet = True
        for guard in self.guards:
            silent = guard.failures or (guard.until_rollback and self.recovery.attempt > 0)
            reason = None if silent else guard.reason(lines)
            if reason is None:
                continue
            if guard.action != "warn":
                raise Tripped(guard, reason)
            if whole and (len(lines) == 1 or guard.reason(lines[:-1]) is None):  # said once
                quiet = False
                self.tell(self.step, "warning", guard.name, reason)
                warn_caller(f"step {self.step}: {reason} (guard {guard.name!r}).", TrainingWarning)
        return quiet

    def tell(self, step: int, event: str, guard: str, reason: str, **more: Any) -> None:
        """Writes down what a guard did."""
        self._write({"step": step, "event": event, "guard": guard, "reason": reason} | more)

    def _write(self, record: dict[str, Any]) -> None:
        try:
            self.records.append(record)
        except OSError as error:
            newest = newest_checkpoint(self.checkpoints) if self.out_dir else None
            raise unwritten(f"a line of {self.records.path}", error, newest) from error

    @property
    def goes_back(self) -> bool:
        """Whether states are kept to go back to."""
        return self.max_rollbacks > 0 and any(guard.action == "rollback" for guard in self.guards)

    def apply_factors(self) -> None:
        """Puts remedies and the control of the step size into force."""
        remedy, control = self.recovery.remedy, self.step_size_control
        self.step_size.set(remedy.step_size * (1.0 if control is None else math.exp(control.log_factor)))
        if self.k_steps is not None:
            setattr(self.loss_fn, "k_steps", max(1, round(self.k_steps * remedy.sampler_steps)))  # noqa: B010

    # saving and resuming ----------------------------------------------------------------------------------------------

    @property
    def checkpoints(self) -> Path:
        """Where checkpoints go."""
        assert self.out_dir is not None
        return self.out_dir / "checkpoints"

    def save(self) -> Path | None:
        """Writes a checkpoint of everything that the rest of the run depends on; `None` without `out_dir`."""
        return self._save(to_go_back=False)

    def _save(self, *, to_go_back: bool) -> Path | None:
        memory = None
        if to_go_back and self.goes_back:
            memory = copied(packed(self)) if self.out_dir is None else None
            self.recovery.saved(self.step, memory)
        if self.out_dir is None:
            return None
        self.records.flush()
        state = packed(self)
        return save_checkpoint(self.checkpoints, state.step, state.tensors, state.info, self.recovery.steps)

    def restore(self, path: Path) -> None:
        """Returns to a checkpoint: weights, average, optimiser, schedules, chains, random streams, attempts."""
        self._restore(load_checkpoint(path, self.device), str(path))

    def _restore(self, state: State, path: str) -> None:
        info = state.info
        if info["seed"] != self.seed:
            raise ValueError(
                f"{path} belongs to a run with seed {info['seed']}, not {self.seed}: resume with the same seed."
            )
        if (info["ema_updates"] is None) != (self.ema is None):
            raise ValueError(
                f"{path} was written {'with' if self.ema is None else 'without'} ema_decay: resume as it was begun."
            )
        if (info["step_size_control"] is None) != (self.step_size_control is None):
            raise ValueError(
                f"{path} was written {'with' if self.step_size_control is None else 'without'} step_size_control: "
                "resume as it was begun."
            )
        self.recovery.load_state_dict(info["recovery"])
        unpack(self, state)
        self.apply_factors()

    def _begin(self, n_steps: int, resume: bool) -> None:
        if self.out_dir is None and resume:
            raise ValueError("resume=True needs the out_dir of the run to resume.")
        kept = self.records.all
        if self.out_dir is not None:
            found = list_checkpoints(self.checkpoints)
            if found and not resume and self.step == 0:
                raise FileExistsError(
                    f"{self.out_dir} holds a run already, up to {found[-1].name}: pass resume=True, or another out_dir."
                )
            log = self.out_dir / "metrics.jsonl"
            if found and resume:
                n_records = self._resume(found)
                kept = (read_records(log) if log.exists() else [])[:n_records]
                if len(kept) < n_records:
                    warn_caller(
                        f"{log} has {len(kept)} lines, and had {n_records} when the checkpoint was written: curves and "
                        "guards know of those only.",
                        TrainingWarning,
                    )
            try:
                self.out_dir.mkdir(parents=True, exist_ok=True)
                self.records.path = log
                self.records.open(kept)
            except OSError as error:
                raise unwritten(f"{log}", error, found[-1] if found else None) from error
        if not self.recovery.states and self.step < n_steps:
            self._save(to_go_back=True)

    def _resume(self, found: list[Path]) -> int:
        """Restores the newest checkpoint that can be read; returns how many records there were then."""
        damaged: list[tuple[Path, ValueError]] = []
        for path in reversed(found):
            try:
                state = load_checkpoint(path, self.device)
            except ValueError as error:
                damaged.append((path, error))
                continue
            self._restore(state, str(path))
            for other, error in damaged:
                aside = other.with_name(f"damaged-{other.name}")
                shutil.rmtree(aside, ignore_errors=True)
                other.rename(aside)
                warn_caller(f"{error} It is kept as {aside.name}; this run resumes from {path}.", TrainingWarning)
            return state.info["records"]
        raise damaged[0][1]

    def _key(self, stream: str, *more: int) -> tuple[int | str, ...]:
        return (self.seed, self.recovery.attempt, _RANK, stream, *more)

    def stream(self, name: str) -> torch.Generator:
        """A random stream of the attempt at hand."""
        return generator_for(*self._key(name), device=self.device)
