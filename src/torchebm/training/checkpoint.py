"""Checkpoints: directories of safetensors and JSON, made under a temporary name and renamed. Nothing unpickles."""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

__all__ = ["Checkpoint", "list_checkpoints", "load_checkpoint", "newest_checkpoint", "save_checkpoint"]

_INFO = "checkpoint.json"


class Checkpoint(NamedTuple):
    """What was saved."""

    step: int
    tensors: dict[str, dict[str, Tensor]]
    """Tensors by file and name."""
    info: dict[str, Any]
    """Everything else."""


def save_checkpoint(folder: Path, step: int, tensors: Mapping[str, Mapping[str, Tensor]], info: Mapping[str, Any],
                    keep: int = 2) -> Path:  # fmt: skip
    """Writes `folder/step-XXXXXXXX`, all of it or none, and removes all but the newest `keep`.

    Args:
        folder: Where the checkpoints of a run lie.
        step: Updates done.
        tensors: One safetensors file each.
        info: What JSON can hold.
        keep: Checkpoints to keep.

    Returns:
        The checkpoint's directory.
    """
    final = folder / f"step-{step:08d}"
    if (final / _INFO).exists():
        return final  # a run resumed from here is where it was
    temporary = folder / f".{final.name}.{os.getpid()}"
    for leftover in (final, *folder.glob(".step-*")):  # of a process that was killed
        if leftover.exists():
            shutil.rmtree(leftover)
    try:
        temporary.mkdir(parents=True)
        for name, group in tensors.items():
            save_file(
                {key: t.detach().cpu().contiguous().clone() for key, t in group.items()},
                temporary / f"{name}.safetensors",
            )
        (temporary / _INFO).write_text(json.dumps({"step": step, "files": sorted(tensors), **info}, indent=1))
        for path in (*temporary.iterdir(), temporary):
            _flush_to_disk(path)
        os.rename(temporary, final)
        _flush_to_disk(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    for old in list_checkpoints(folder)[:-keep]:
        shutil.rmtree(old)
    return final


def load_checkpoint(path: Path, device: torch.device | str = "cpu") -> Checkpoint:
    """Reads a checkpoint's directory.

    Raises:
        ValueError: If a file of it cannot be read, or `checkpoint.json` is missing; the message names the directory.
    """
    try:
        info = json.loads((path / _INFO).read_text())
        files = info.pop("files")
        tensors = {name: load_file(path / f"{name}.safetensors", device=str(device)) for name in files}
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise ValueError(f"the checkpoint {path} cannot be read: {error}") from error
    return Checkpoint(info.pop("step"), tensors, info)


def list_checkpoints(folder: Path) -> list[Path]:
    """The complete checkpoints of a run, oldest first."""
    return sorted(path.parent for path in folder.glob(f"step-*/{_INFO}"))


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


def _flush_to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
