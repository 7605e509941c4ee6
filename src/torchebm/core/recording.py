"""What a run writes down: trajectories, in memory or on disk, and diagnostics."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["Recorder", "TrajectoryFile", "TrajectoryTensor"]

_COUNTS = {"n_steps": torch.add, "tree_depth": torch.maximum}  # of infos that have them, and how thinning combines them


class Trajectory(Protocol):
    """Takes the draws of a run, one after the other."""

    def write(self, draw: int, x: Tensor) -> None: ...

    def close(self) -> None: ...


class TrajectoryTensor:
    """`[chain, draw, *event]` in memory."""

    def __init__(self, x: Float[Tensor, " chain *event"], n_draws: int) -> None:
        self.tensor = x.new_empty(len(x), n_draws, *x.shape[1:])

    def write(self, draw: int, x: Tensor) -> None:
        self.tensor[:, draw] = x

    def close(self) -> None:
        pass


class TrajectoryFile:
    """`[chain, draw, *event]` on disk, written as it is made.

    As `.npy`, read by `numpy.load(path, mmap_mode="r")`, or `.zarr`.

    Args:
        path: Where to; nothing may be there yet.
        x: The chains, for their number, event shape and dtype (bfloat16 and float16 are written as float32).
        n_draws: Draws to come.
        buffer: Draws collected in memory between two writes.
    """

    def __init__(self, path: str | Path, x: Float[Tensor, " chain *event"], n_draws: int, buffer: int = 64) -> None:
        path = Path(path)
        if path.exists():
            raise FileExistsError(f"{path} exists: remove it or write the trajectory elsewhere.")
        shape = (len(x), n_draws, *x.shape[1:])
        dtype = torch.float32 if x.dtype in (torch.bfloat16, torch.float16) else x.dtype
        self._buffer = torch.empty(len(x), max(1, min(buffer, n_draws)), *x.shape[1:], dtype=dtype)
        numpy_dtype = np.dtype(str(dtype).removeprefix("torch."))
        if path.suffix == ".npy":
            self._array = np.lib.format.open_memmap(path, mode="w+", dtype=numpy_dtype, shape=shape)
        elif path.suffix == ".zarr":
            try:
                import zarr
            except ImportError as error:
                raise ImportError('a .zarr trajectory needs zarr: pip install "torchebm[arviz]".') from error
            chunks = tuple(max(1, n) for n in self._buffer.shape)
            self._array = zarr.create_array(store=str(path), shape=shape, chunks=chunks, dtype=numpy_dtype)
        else:
            raise ValueError(f"a trajectory is written to .npy or .zarr; got {path.name!r}.")
        self._written = self._filled = 0

    def write(self, draw: int, x: Tensor) -> None:
        self._buffer[:, self._filled] = x
        self._filled += 1
        if self._filled == self._buffer.shape[1]:
            self._flush()

    def close(self) -> None:
        """Writes what is still in memory."""
        self._flush()
        if isinstance(self._array, np.memmap):
            self._array.flush()

    def _flush(self) -> None:
        if self._filled:
            self._array[:, self._written : self._written + self._filled] = self._buffer[:, : self._filled].numpy()
            self._written, self._filled = self._written + self._filled, 0


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
            self._count(draw, info, self.diagnostics)
            diverging = info.diverging if self.held is None else info.diverging | self.held
            self.diagnostics["diverging"][:, draw] |= diverging
            if "acceptance_rate" in self.diagnostics:
                self.diagnostics["acceptance_rate"][:, draw] += info.acceptance_rate / self.thin
        if rest == self.thin - 1:
            x = self.to_user(state.x)
            if self.store is not None:
                self.store.write(draw, x)
            if self.diagnostics is not None:
                self.diagnostics["energy"][:, draw] = energy = self.energy(state)
                self.diagnostics["diverging"][:, draw] |= ~energy.isfinite()
                self.diagnostics["mean"][draw] = x.mean(0)
                self.diagnostics["var"][draw] = x.var(0, correction=0)

    def _count(self, draw: int, info: Any, diagnostics: dict[str, Tensor]) -> None:
        """What trajectories of a length of their own report."""
        for name, combine in _COUNTS.items():
            count = getattr(info, name, None)
            if count is not None:
                kept = diagnostics.setdefault(name, count.new_zeros(len(count), self.n_draws))
                kept[:, draw] = combine(kept[:, draw], count)

    def finish(self, parameters: Mapping[str, list[float]]) -> dict[str, Tensor] | None:
        """Closes the trajectory and returns the diagnostics, with the parameters that were in force at each draw."""
        if self.store is not None:
            self.store.close()
        if self.diagnostics is not None and "step_size" in parameters:
            at_draws = parameters["step_size"][self.thin - 1 :: self.thin]
            energy = self.diagnostics["energy"]
            self.diagnostics["step_size"] = energy.new_tensor(at_draws).expand_as(energy).clone()
        return self.diagnostics
