"""The one training loop."""

import json
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset

from torchebm.core.allocator import keep_freed_memory
from torchebm.core.checks import integer, number
from torchebm.core.energies import NonFiniteEnergyError
from torchebm.core.interruption import Interruption
from torchebm.core.loss import BaseLoss, LossOutput
from torchebm.core.model import BaseModel
from torchebm.core.progress import progress_bar
from torchebm.core.random import generator_for
from torchebm.core.schedulers import BaseScheduler, as_scheduler

from .batches import Batches
from .checkpoint import load_checkpoint, newest_checkpoint, pack_optimizer, save_checkpoint, unpack_optimizer
from .ema import ExponentialMovingAverage

__all__ = ["Trainer", "TrainingDivergedError"]

_RANK = 0  # one process; scaling out gives each its own
_ATTEMPT = 0  # rolling back raises it
FROZEN = 0.01  # acceptance rate below which chains count as standing still


class TrainingDivergedError(ArithmeticError):
    """Training stopped because its numbers did.

    The message says at which step, why, and where the last good state is.
    """


class Trainer:
    """Runs a loss over data: updates, averages, logs, checkpoints, resumes.

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
        checkpoint_every: Updates between checkpoints; the last two are kept.
        energy_limit: The run stops when a mean energy exceeds this in size.

    Attributes:
        step: Updates done.
        metrics: What was logged, one dict a line.

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
                 energy_limit: float = 1e6) -> None:  # fmt: skip
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
        self.energy_limit = number("energy_limit", energy_limit, above=0.0)
        self.generator = generator_for(self.seed, _ATTEMPT, _RANK, "chains", device=self.parameters[0].device)
        self.step = 0
        self.metrics: list[dict[str, float]] = []
        self._window: dict[str, Tensor] = {}  # sums of figures since the last line of metrics
        self._in_window = 0
        self._seconds = 0.0

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
            TrainingDivergedError: If a loss, an energy or a gradient is not finite, or energies exceed `energy_limit`.
                The last good checkpoint is kept and named.
            FileExistsError: If `out_dir` holds a run and `resume` is false.
            KeyboardInterrupt: After an interrupt, once the step at hand is done and a checkpoint is written.
        """
        batches = Batches(data, batch_size, (self.seed, _ATTEMPT, _RANK, "batches"))
        self._begin(integer("n_steps", n_steps), resume)
        self.loss_fn.train()
        self.model.train()
        keep_freed_memory()
        with Interruption() as interruption, progress_bar(progress, n_steps, "training", initial=self.step) as tick:
            while self.step < n_steps:
                began = time.perf_counter()
                batch = batches[self.step]
                try:
                    output = self.loss_fn.evaluate(batch, generator=self.generator)
                    gradient_norm = self._update(output)
                except NonFiniteEnergyError as error:
                    raise self._diverged(str(error)) from error
                self.loss_fn.commit()
                if self.ema is not None:
                    self.ema.update(self.model)
                self.step += 1
                self._seconds += time.perf_counter() - began
                line = self._note({"loss": output.loss.detach(), "gradient_norm": gradient_norm} | output.metrics)
                tick(**({"gap": f"{line['energy_gap']:+.3f}"} if line and "energy_gap" in line else {}))
                if self.step % self.checkpoint_every == 0 or self.step == n_steps or interruption.pressed:
                    self.save()
                if interruption.pressed:
                    saved = "resume=True continues from there" if self.out_dir else "nothing is saved without out_dir="
                    raise KeyboardInterrupt(f"stopped after step {self.step}; {saved}.")
            self._close_window()
        return self.trained_model

    def _update(self, output: LossOutput) -> Tensor:
        """One step of the optimiser, if the gradient is finite; returns the gradient's norm before clipping."""
        factor = self.learning_rate_schedule.value(self.step)
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

    def _note(self, figures: dict[str, Tensor]) -> dict[str, float] | None:
        """Adds figures to the window, and closes it where a line is due."""
        for name, figure in figures.items():
            self._window[name] = self._window[name] + figure if name in self._window else figure
        self._in_window += 1
        return None if self.step % self.log_every else self._close_window()

    def _close_window(self) -> dict[str, float] | None:
        """Reads the means of the window, checks and logs them, and returns the line; `None` for an empty window."""
        means = self._check_window()
        if not means:
            return None
        line = {"step": self.step} | means
        line |= {"learning_rate": float(self.optimizer.param_groups[0]["lr"]), "seconds": round(self._seconds, 3)}
        self._window, self._in_window = {}, 0
        self.metrics.append(line)
        if self.out_dir is not None:
            with (self.out_dir / "metrics.jsonl").open("a") as file:
                file.write(json.dumps(line) + "\n")
        return line

    def _check_window(self) -> dict[str, float]:
        """The means of the window so far, unless they say that training has diverged."""
        means = {name: float(total) / self._in_window for name, total in self._window.items()}
        for name, value in means.items():
            if name.startswith("energy") and not abs(value) <= self.energy_limit:
                raise self._diverged(f"{name} is {value:.4g}, beyond energy_limit={self.energy_limit:g}")
        if means.get("acceptance_rate", 1.0) < FROZEN:
            raise self._diverged(
                f"the sampler accepts {means['acceptance_rate']:.1%} of its proposals, so the chains stand still and "
                "the energies drift apart (take a smaller sampler step size or learning rate)"
            )
        return means

    def _diverged(self, reason: str) -> TrainingDivergedError:
        last = None if self.out_dir is None else newest_checkpoint(self.out_dir / "checkpoints")
        kept = "no checkpoint was written (give out_dir=)" if last is None else f"the last good checkpoint is {last}"
        return TrainingDivergedError(f"training diverged at step {self.step}: {reason.rstrip('.')}; {kept}.")

    # saving and resuming ----------------------------------------------------------------------------------------------

    def save(self) -> Path | None:
        """Writes a checkpoint of everything that the rest of the run depends on."""
        if self.out_dir is None:
            return None
        self._check_window()  # what has diverged is not saved over what has not
        optimizer_tensors, optimizer_rest = pack_optimizer(self.optimizer)
        tensors = {
            "model": self.model.state_dict(),
            "loss": self.loss_fn.state_dict(),
            "optimizer": optimizer_tensors,
            "random": {"chains": self.generator.get_state(), "global": torch.get_rng_state()},
            "window": {name: torch.as_tensor(total) for name, total in self._window.items()},
        }
        if self.ema is not None:
            tensors["ema"] = self.ema.model.state_dict()
        device = self.parameters[0].device
        if device.type == "cuda":
            tensors["random"]["global-device"] = torch.cuda.get_rng_state(device)
        schedulers = getattr(self.loss_fn.sampler, "schedulers", {})
        info = {
            "seed": self.seed,
            "attempt": _ATTEMPT,
            "seconds": self._seconds,
            "in_window": self._in_window,
            "ema_updates": None if self.ema is None else self.ema.n_updates,
            "optimizer": optimizer_rest,
            "schedulers": {name: scheduler.state_dict() for name, scheduler in schedulers.items()},
        }
        return save_checkpoint(self.out_dir / "checkpoints", self.step, tensors, info)

    def restore(self, path: Path) -> None:
        """Returns to a checkpoint: weights, average, optimiser, schedules, chains, random streams."""
        device = self.parameters[0].device
        step, tensors, info = load_checkpoint(path, device)
        if info["seed"] != self.seed:
            raise ValueError(
                f"{path} belongs to a run with seed {info['seed']}, not {self.seed}: resume with the same seed."
            )
        if (info["ema_updates"] is None) != (self.ema is None):
            raise ValueError(
                f"{path} was written {'with' if self.ema is None else 'without'} ema_decay: resume as it was begun."
            )
        self.model.load_state_dict(tensors["model"])
        self.loss_fn.load_state_dict(tensors["loss"])
        unpack_optimizer(self.optimizer, tensors["optimizer"], info["optimizer"])
        if self.ema is not None:
            self.ema.model.load_state_dict(tensors["ema"])
            self.ema.n_updates = info["ema_updates"]
        for name, state in info["schedulers"].items():
            self.loss_fn.sampler.schedulers[name].load_state_dict(state)
        self.generator.set_state(tensors["random"]["chains"].cpu())
        torch.set_rng_state(tensors["random"]["global"].cpu())
        if "global-device" in tensors["random"]:
            torch.cuda.set_rng_state(tensors["random"]["global-device"].cpu(), device)
        self._window, self._in_window = dict(tensors["window"]), info["in_window"]
        self._seconds, self.step = info["seconds"], step

    def _begin(self, n_steps: int, resume: bool) -> None:
        if self.out_dir is None:
            if resume:
                raise ValueError("resume=True needs the out_dir of the run to resume.")
            return
        newest = newest_checkpoint(self.out_dir / "checkpoints")
        if newest is not None and resume:
            self.restore(newest)
        elif newest is not None and self.step == 0:
            raise FileExistsError(
                f"{self.out_dir} holds a run already, up to {newest.name}: pass resume=True, or another out_dir."
            )
        self.out_dir.mkdir(parents=True, exist_ok=True)
        log = self.out_dir / "metrics.jsonl"
        written = read_metrics(log) if log.exists() else []
        kept = self.step - self._in_window  # what came after the checkpoint, or lies in its open window, comes again
        self.metrics = [line for line in written if line["step"] <= kept]
        log.write_text("".join(json.dumps(line) + "\n" for line in self.metrics))
        if self.step < n_steps:
            self.save()


def read_metrics(path: Path) -> list[dict[str, float]]:
    """The lines of a `metrics.jsonl`, but for a last one that was being written."""
    return [json.loads(line) for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]
