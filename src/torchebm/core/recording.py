"""What a run writes down: trajectories, in memory or on disk, and diagnostics."""

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["Recorder", "TrajectoryFile", "TrajectoryTensor"]

# What an info may report beside `diverging`, `[chain]` or `[chain, ...]`, and what becomes of it over the transitions
# that thinning leaves out. A rate that is NaN had no occasion, and does not count.
_REPORTS = {
    "acceptance_rate": "mean",
    "energy_error": "mean",
    "global_acceptance_rate": "mean",
    "swap_rate": "mean",
    "n_steps": "sum",
    "round_trips": "sum",
    "tree_depth": "max",
}


class Trajectory(Protocol):
    """Takes the draws of a run, one after the other."""

    def write(self, draw: int, x: Tensor) -> None: ...

    def close(self, n_draws: int) -> None: ...


class TrajectoryTensor:
    """`[chain, draw, *event]` in memory."""

    def __init__(self, x: Float[Tensor, " chain *event"], n_draws: int) -> None:
        self.tensor = x.new_empty(len(x), n_draws, *x.shape[1:])

    def write(self, draw: int, x: Tensor) -> None:
        self.tensor[:, draw] = x

    def close(self, n_draws: int) -> None:
        """Ends it after `n_draws` draws."""
        self.tensor = self.tensor[:, :n_draws]


class TrajectoryFile:
    """`[chain, draw, *event]` on disk, written as it is made.

    As `.npy`, read by `numpy.load(path, mmap_mode="r")`, or `.zarr`. Until it is complete, its name ends in `.partial`.

    Args:
        path: Where to; nothing may be there yet. What an earlier run left as `.partial` is replaced.
        x: The chains, for their number, event shape and dtype (bfloat16 and float16 are written as float32).
        n_draws: Draws to come.
        buffer: Draws collected in memory between two writes.
    """

    def __init__(self, path: str | Path, x: Float[Tensor, " chain *event"], n_draws: int, buffer: int = 64) -> None:
        path = Path(path)
        if path.exists():
            raise FileExistsError(f"{path} exists: remove it or write the trajectory elsewhere.")
        if path.suffix not in (".npy", ".zarr"):
            raise ValueError(f"a trajectory is written to .npy or .zarr; got {path.name!r}.")
        self._path, self._partial = path, path.with_name(f"{path.name}.partial")
        _remove(self._partial)
        shape = (len(x), n_draws, *x.shape[1:])
        dtype = torch.float32 if x.dtype in (torch.bfloat16, torch.float16) else x.dtype
        self._buffer = torch.empty(len(x), max(1, min(buffer, n_draws)), *x.shape[1:], dtype=dtype)
        numpy_dtype = np.dtype(str(dtype).removeprefix("torch."))
        if path.suffix == ".npy":
            self._array: Any = np.lib.format.open_memmap(self._partial, mode="w+", dtype=numpy_dtype, shape=shape)
        else:
            try:
                import zarr
            except ImportError as error:
                raise ImportError('a .zarr trajectory needs zarr: pip install "torchebm[arviz]".') from error
            chunks = tuple(max(1, n) for n in self._buffer.shape)
            self._array = zarr.create_array(store=str(self._partial), shape=shape, chunks=chunks, dtype=numpy_dtype)
        self._written = self._filled = 0

    def write(self, draw: int, x: Tensor) -> None:
        self._buffer[:, self._filled] = x
        self._filled += 1
        if self._filled == self._buffer.shape[1]:
            self._flush()

    def close(self, n_draws: int) -> None:
        """Writes what is still in memory, cuts the file to `n_draws` draws and gives it its name."""
        self._flush()
        shape = (self._array.shape[0], n_draws, *self._array.shape[2:])
        if not isinstance(self._array, np.memmap):
            if shape != self._array.shape:
                self._array.resize(shape)
            self._partial.rename(self._path)
            return
        self._array.flush()
        if shape == self._array.shape:
            self._partial.rename(self._path)
            return
        # draws are not the first axis, so a file of fewer is another file
        cut = self._path.with_name(f"{self._path.name}.cut.partial")
        kept = np.lib.format.open_memmap(cut, mode="w+", dtype=self._array.dtype, shape=shape)
        for chain, draws in enumerate(self._array):
            kept[chain] = draws[:n_draws]
        kept.flush()
        cut.rename(self._path)
        _remove(self._partial)

    def _flush(self) -> None:
        if self._filled:
            self._array[:, self._written : self._written + self._filled] = self._buffer[:, : self._filled].numpy()
            self._written, self._filled = self._written + self._filled, 0


def _remove(path: Path) -> None:
    """A file, or a folder such as zarr's, if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


class Recorder:
    """Keeps every `thin`-th state of a run, and what its transitions reported.

    Args:
        x: The chains, for shapes, dtype and device.
        n_draws: Draws to keep.
        thin: Transitions per draw; over them rates are averaged, flags collected, leapfrog steps (`n_steps`) summed,
            and the largest `tree_depth` is kept.
        store: Takes the draws, if they are wanted.
        diagnostics: Whether diagnostics are wanted.
        to_user: Maps a state's `x` to the user's space.
        energy: `state -> [chain]`, its energies.
        can_reject: Whether infos tell an acceptance rate.
        held: `[chain]`, true for chains that are held where they started.
    """

    def __init__(self, x: Float[Tensor, " chain *event"], n_draws: int, thin: int, *, store: Trajectory | None,
                 diagnostics: bool, to_user: Callable[[Tensor], Tensor], energy: Callable[[Any], Tensor],
                 can_reject: bool, held: Tensor | None = None) -> None:  # fmt: skip
        self.n_draws, self.thin, self.store = n_draws, thin, store
        self.to_user, self.energy, self.held = to_user, energy, held
        self.diagnostics: dict[str, Tensor] | None = None
        self._occasions: dict[str, Tensor] = {}  # of each rate: how many transitions of a draw had one
        if diagnostics:
            per_draw = {"energy": x.dtype, "diverging": torch.bool}
            if can_reject:
                per_draw["acceptance_rate"] = torch.promote_types(x.dtype, torch.float32)
            self.diagnostics = {k: x.new_zeros(len(x), n_draws, dtype=dtype) for k, dtype in per_draw.items()}
            self.diagnostics |= {k: x.new_full((n_draws, *x.shape[1:]), torch.nan) for k in ("mean", "var")}

    def __call__(self, i: int, state: Any, info: Any) -> None:
        """Takes note of transition `i`, counted from 0, which ended in `state`."""
        draw, rest = divmod(i, self.thin)
        if draw >= self.n_draws:
            return
        if self.diagnostics is not None:
            diverging = info.diverging if self.held is None else info.diverging | self.held
            self.diagnostics["diverging"][:, draw] |= diverging
            for name, how in _REPORTS.items():
                reported = getattr(info, name, None)
                if reported is not None:
                    self._note(name, how, reported, draw, rest)
        if rest == self.thin - 1:
            x = self.to_user(state.x)
            if self.store is not None:
                self.store.write(draw, x)
            if self.diagnostics is not None:
                self.diagnostics["energy"][:, draw] = energy = self.energy(state)
                self.diagnostics["diverging"][:, draw] |= ~energy.isfinite()
                self.diagnostics["mean"][draw] = x.mean(0)
                self.diagnostics["var"][draw] = x.var(0, correction=0)

    def _note(self, name: str, how: str, reported: Tensor, draw: int, rest: int) -> None:
        """Adds one transition's report to those of its draw."""
        assert self.diagnostics is not None
        if name not in self.diagnostics:
            self.diagnostics[name] = reported.new_zeros(len(reported), self.n_draws, *reported.shape[1:])
        kept = self.diagnostics[name][:, draw]
        if self.thin == 1:
            kept.copy_(reported)
        elif how == "mean":
            occasion = ~reported.isnan()
            n = self._occasions[name] = occasion + (self._occasions[name] if rest else 0)
            kept += torch.where(occasion, reported, 0.0)
            if rest == self.thin - 1:
                kept /= n
        else:
            kept.copy_(kept + reported if how == "sum" else torch.maximum(kept, reported))

    def finish(self, parameters: Mapping[str, list[float]], n_steps: int) -> dict[str, Tensor] | None:
        """Closes the trajectory and returns the diagnostics of the `n_steps` transitions that there were.

        Args:
            parameters: Those that were in force, by name: `step_size` is told for each draw.
            n_steps: Transitions; fewer than were expected if the run was interrupted.
        """
        n_draws = n_steps // self.thin
        if self.store is not None:
            self.store.close(n_draws)
        if self.diagnostics is None:
            return None
        if n_draws < self.n_draws:
            draws_first = ("mean", "var")
            self.diagnostics = {
                name: kept[:n_draws] if name in draws_first else kept[:, :n_draws]
                for name, kept in self.diagnostics.items()
            }
        if "step_size" in parameters:
            at_draws = parameters["step_size"][self.thin - 1 : n_steps : self.thin]
            energy = self.diagnostics["energy"]
            self.diagnostics["step_size"] = energy.new_tensor(at_draws).expand_as(energy).clone()
        return self.diagnostics
