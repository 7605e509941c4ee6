"""Checkpoints: directories of safetensors and JSON, made under a temporary name and renamed. Nothing unpickles."""

import errno
import json
import os
import shutil
import zlib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

__all__ = [
    "Checkpoint",
    "checkpoint_path",
    "list_checkpoints",
    "load_checkpoint",
    "newest_checkpoint",
    "remove_checkpoint",
    "save_checkpoint",
    "step_of",
    "unwritten",
]

_INFO = "checkpoint.json"


class Checkpoint(NamedTuple):
    """What was saved."""

    step: int
    tensors: dict[str, dict[str, Tensor]]
    """Tensors by file and name."""
    info: dict[str, Any]
    """Everything else."""


def save_checkpoint(folder: Path, step: int, tensors: Mapping[str, Mapping[str, Tensor]], info: Mapping[str, Any],
                    keep: Collection[int] = ()) -> Path:  # fmt: skip
    """Writes `folder/step-XXXXXXXX`, all of it or none, and removes all but the last two and those in `keep`.

    Args:
        folder: Where the checkpoints of a run lie.
        step: Updates done.
        tensors: One safetensors file each.
        info: What JSON can hold.
        keep: Steps of other checkpoints that are still needed.

    Returns:
        The checkpoint's directory.

    Raises:
        OSError: If it cannot be written, as on a full disk; earlier checkpoints are left as they are.
    """
    final = checkpoint_path(folder, step)
    if (final / _INFO).exists():
        return final  # a run resumed from here is where it was
    temporary = folder / f".{final.name}.{os.getpid()}"
    try:
        for leftover in (final, *folder.glob(".step-*")):  # of a process that was killed
            if leftover.exists():
                shutil.rmtree(leftover)
        temporary.mkdir(parents=True)
        checksums = {}
        for name, group in tensors.items():
            file = temporary / f"{name}.safetensors"
            save_file({key: t.detach().cpu().contiguous().clone() for key, t in group.items()}, file)
            checksums[name] = _checksum(file)
        (temporary / _INFO).write_text(json.dumps({"step": step, "files": checksums, **info}, indent=1))
        for path in (*temporary.iterdir(), temporary):
            _flush_to_disk(path)
        os.rename(temporary, final)
        _flush_to_disk(folder)
    except (OSError, SafetensorError) as error:
        raise unwritten(f"the checkpoint {final}", error, newest_checkpoint(folder)) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    for old in list_checkpoints(folder)[:-2]:
        if step_of(old) not in keep:
            remove_checkpoint(old)
    return final


def unwritten(what: str, error: Exception, newest: Path | None) -> OSError:
    """The error for something that could not be written: what it was, what is safe, and what to do."""
    number = getattr(error, "errno", None) or (errno.ENOSPC if "os error 28" in str(error) else errno.EIO)
    safe = "no checkpoint is complete yet" if newest is None else f"{newest} is complete and unharmed"
    return OSError(
        number,
        f"{what} could not be written ({error}); {safe}. Make room there, or see to the permissions, and go on with "
        "resume=True.",
    )


def load_checkpoint(path: Path, device: torch.device | str = "cpu") -> Checkpoint:
    """Reads a checkpoint's directory.

    Raises:
        ValueError: If a file of it is missing, or not what was written; the message names it, and what to do.
    """
    file = path / _INFO
    try:
        info = json.loads(file.read_text())
        tensors = {}
        for name, checksum in info.pop("files").items():
            file = path / f"{name}.safetensors"
            if _checksum(file) != checksum:
                raise ValueError("its contents are not what was written: it was cut or changed")
            tensors[name] = load_file(file, device=str(device))
        return Checkpoint(info.pop("step"), tensors, info)
    except PermissionError:
        raise
    except (OSError, ValueError, KeyError, AttributeError, SafetensorError) as error:
        earlier = [other for other in list_checkpoints(path.parent) if step_of(other) < step_of(path)]
        advice = f"remove it to use {earlier[-1]}" if earlier else "there is none before it, so train anew"
        raise ValueError(f"the checkpoint {path} cannot be read: {file.name}: {error}; {advice}.") from error


def checkpoint_path(folder: Path, step: int) -> Path:
    """Where the checkpoint of a step lies."""
    return folder / f"step-{step:08d}"


def step_of(path: Path) -> int:
    """The step of a checkpoint, by its name."""
    return int(path.name.removeprefix("step-"))


def remove_checkpoint(path: Path) -> None:
    """Removes a checkpoint, which is either there as a whole or not, whenever the process is killed."""
    hidden = path.with_name(f".{path.name}.{os.getpid()}")
    os.rename(path, hidden)
    shutil.rmtree(hidden)


def list_checkpoints(folder: Path) -> list[Path]:
    """The complete checkpoints of a run, oldest first."""
    found = (path.parent for path in folder.glob(f"step-*/{_INFO}"))
    return sorted((path for path in found if path.name[5:].isdigit()), key=step_of)


def newest_checkpoint(folder: Path) -> Path | None:
    """The newest complete checkpoint, if there is one."""
    return next(reversed(list_checkpoints(folder)), None)


def pack_optimizer(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """An optimiser's state as tensors by name, and the rest."""
    state = optimizer.state_dict()
    tensors, rest = {}, {"param_groups": state["param_groups"], "state": {}}
    for index, values in state["state"].items():
        for key, value in values.items():
            if isinstance(value, Tensor):
                tensors[f"{index}.{key}"] = value
            else:
                rest["state"].setdefault(str(index), {})[key] = value
    return tensors, rest


def unpack_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], rest: Mapping[str, Any]) -> None:
    """Gives an optimiser the state that `pack_optimizer` took."""
    state: dict[int, dict[str, Any]] = {int(index): dict(values) for index, values in rest["state"].items()}
    for name, tensor in tensors.items():
        index, key = name.split(".", 1)
        state.setdefault(int(index), {})[key] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": rest["param_groups"]})


def _checksum(path: Path) -> int:
    """CRC-32 of a file: it tells damage, not intent."""
    value = 0
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            value = zlib.crc32(block, value)
    return value


def _flush_to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
