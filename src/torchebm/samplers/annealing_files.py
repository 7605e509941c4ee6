"""Files that annealed runs are saved to and continued from: safetensors, with numbers as JSON beside them."""

import json
import os
import time
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from torchebm.core.checks import integer, number
from torchebm.core.random import generator_for, randint

from .annealing_schedule import AnnealingSchedule

__all__ = ["RunFile", "batches_of", "load_schedule", "read_tensors", "save_schedule", "seed_from", "write_tensors"]


def write_tensors(path: Path, tensors: dict[str, Tensor], info: dict[str, Any]) -> None:
    """All of a file or none: it is written under another name, flushed and renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for leftover in path.parent.glob(f".{path.name}.*"):  # of a process that was killed
        leftover.unlink(missing_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        own = {name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}
        save_file(own, temporary, metadata={"info": json.dumps(info)})
        with open(temporary, "rb") as written:
            os.fsync(written.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What `write_tensors` wrote."""
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, json.loads(file.metadata()["info"])  # noqa: SIM118
    except (SafetensorError, TypeError, KeyError, ValueError) as error:
        raise ValueError(f"{path} is not a file of an annealed run, or is damaged: {error}") from error


def save_schedule(path: str | Path, schedule: AnnealingSchedule) -> None:
    """Writes temperatures and kernels to a `.safetensors` file."""
    tensors: dict[str, Tensor] = {}
    kernels = [_pack(kernel, tensors) for kernel in schedule.kernels]
    acceptance = [str(rate) for rate in schedule.acceptance]  # JSON has no NaN
    write_tensors(Path(path), tensors, {"betas": list(schedule.betas), "kernels": kernels, "acceptance": acceptance})


def load_schedule(path: str | Path) -> AnnealingSchedule:
    """Reads what `save_schedule` wrote."""
    tensors, info = read_tensors(Path(path))
    kernels = tuple(_unpack(kernel, tensors) for kernel in info["kernels"])
    return AnnealingSchedule(tuple(info["betas"]), kernels, tuple(float(rate) for rate in info["acceptance"]))


def _pack(tree: Any, tensors: dict[str, Tensor]) -> Any:
    """JSON, with tensors by name."""
    if isinstance(tree, Tensor):
        name = f"t{len(tensors)}"
        tensors[name] = tree
        return {"tensor": name, "device": str(tree.device)}
    if isinstance(tree, dict):
        return {"dict": {name: _pack(value, tensors) for name, value in tree.items()}}
    if isinstance(tree, (list, tuple)):
        return [_pack(value, tensors) for value in tree]
    if tree is None or isinstance(tree, (bool, int, str)):
        return tree
    return {"float": repr(float(tree))}


def _unpack(tree: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(tree, list):
        return [_unpack(value, tensors) for value in tree]
    if not isinstance(tree, dict):
        return tree
    if "tensor" in tree:
        return tensors[tree["tensor"]].to(tree["device"])
    if "float" in tree:
        return float(tree["float"])
    return {name: _unpack(value, tensors) for name, value in tree["dict"].items()}


def batches_of(n: int, size: int | None) -> list[int]:
    """Sizes of batches of at most `size`."""
    size = n if size is None else integer("batch_size", size, at_least=1)
    return [min(size, n - done) for done in range(0, n, size)]


def seed_from(generator: torch.Generator | None, device: torch.device) -> int:
    """A number for streams of one's own, drawn from the caller's."""
    at = device if generator is None else generator.device
    return int(randint(2**62, (1,), generator=generator, device=at))


class RunFile:
    """Results by batch and, of the batch that is at work, its state; kept in a file if there is a path.

    Args:
        path: The file, which is continued from if it exists.
        every: Seconds between savings of a batch that is at work.
        seed: Of the streams, one a batch; that in the file wins.
        what: What a file must agree with, to be of this run.
        device: Of streams and tensors.
    """

    def __init__(self, path: str | Path | None, every: float, seed: int, what: dict[str, Any],
                 device: torch.device) -> None:  # fmt: skip
        self.path = None if path is None else Path(path)
        self.every = number("save_every", every, at_least=0.0)
        self.what, self.device = {"seed": seed, **what}, device
        self._results: dict[int, tuple[Tensor, ...]] = {}
        self._at_work: tuple[int, int, list[Tensor], Tensor] | None = None
        self._saved = time.monotonic()
        if self.path is not None and self.path.exists():
            self._read(self.path)

    def has(self, b: int) -> bool:
        """Whether batch b is done."""
        return b in self._results

    def stream(self, b: int) -> torch.Generator:
        """The generator of batch b."""
        return generator_for(self.what["seed"], "batch", b, device=self.device)

    def resume(self, b: int, generator: torch.Generator) -> tuple[int, list[Tensor]] | None:
        """Where batch b was saved, with its generator put back to there; `None` if it was not."""
        if self._at_work is None or self._at_work[0] != b:
            return None
        _, k, tensors, stream = self._at_work
        generator.set_state(stream)
        return k, [t.to(self.device) for t in tensors]

    def save(self, b: int, k: int, tensors: tuple[Tensor, ...], generator: torch.Generator) -> None:
        """Takes note of where batch b is, and writes it if it is time to."""
        if self.path is None or time.monotonic() - self._saved < self.every:
            return
        self._at_work = b, k, list(tensors), generator.get_state()
        self._write(self.path)

    def done(self, b: int, tensors: tuple[Tensor, ...]) -> None:
        """Takes the result of batch b."""
        self._results[b], self._at_work = tensors, None
        if self.path is not None:
            self._write(self.path)

    def results(self) -> list[tuple[Tensor, ...]]:
        """Of all batches, in order."""
        return [self._results[b] for b in sorted(self._results)]

    def _write(self, path: Path) -> None:
        tensors = {f"result.{b}.{i}": t for b, ts in self._results.items() for i, t in enumerate(ts)}
        info: dict[str, Any] = {"what": self.what, "done": sorted(self._results)}
        if self._at_work is not None:
            b, k, work, stream = self._at_work
            tensors |= {f"work.{i}": t for i, t in enumerate(work)} | {"stream": stream}
            info["work"] = [b, k]
        write_tensors(path, tensors, info)
        self._saved = time.monotonic()

    def _read(self, path: Path) -> None:
        tensors, info = read_tensors(path)
        theirs, own = dict(info.get("what", {})), dict(self.what)
        seed = theirs.pop("seed", None)
        del own["seed"]
        if theirs != own:
            differing = sorted(name for name in {*theirs, *own} if theirs.get(name) != own.get(name))
            raise ValueError(f"{path} was saved by another run: {', '.join(differing)} differ. Remove the file, or "
                             "give the arguments that it was made with.")  # fmt: skip
        self.what["seed"] = seed

        def group(prefix: str) -> tuple[Tensor, ...]:
            names = [name for name in tensors if name.startswith(prefix)]
            return tuple(tensors[f"{prefix}{i}"].to(self.device) for i in range(len(names)))

        self._results = {b: group(f"result.{b}.") for b in info["done"]}
        if "work" in info:
            b, k = info["work"]
            self._at_work = b, k, list(group("work.")), tensors["stream"]
