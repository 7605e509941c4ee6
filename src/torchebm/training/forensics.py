"""What a run leaves behind when it gives up: enough to see what happened without running it again."""

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from torchebm.core.loss import BaseLoss
from torchebm.core.model import evaluating

from .telemetry import written

__all__ = ["dump"]

_LINES = 100  # of metrics that are kept


def dump(folder: Path, loss_fn: BaseLoss, batch: Any, lines: Sequence[Mapping[str, Any]],
         facts: Mapping[str, Any]) -> Path:  # fmt: skip
    """Writes `folder`, all of it or none.

    | file | holds |
    |---|---|
    | `points.safetensors` | the last batch and negatives, and their energies |
    | `parameters.json` | by name: shape, norm, largest entry, entries that are not finite, norm of the gradient |
    | `metrics.jsonl` | the last lines |
    | `forensics.json` | what went wrong, and when |

    Args:
        folder: Replaced if it is there.
        loss_fn: Whose model and negatives.
        batch: The last batch: points, or a tuple that begins with them.
        lines: The figures so far.
        facts: For `forensics.json`.
    """
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    points = batch[0] if isinstance(batch, (tuple, list)) else batch
    tensors = {"batch": points, "negatives": getattr(loss_fn, "last_negatives", None)}
    tensors = {name: x.detach() for name, x in tensors.items() if isinstance(x, Tensor)}
    facts = dict(facts)
    for name, x in list(tensors.items()):
        try:
            with torch.no_grad(), evaluating(loss_fn.model):
                tensors[f"energy_{name}"] = loss_fn.model(x)
        except Exception as error:  # what cannot be evaluated is told; the rest of the dump matters more
            facts[f"energy_{name}"] = f"{type(error).__name__}: {error}"
    save_file({name: x.cpu().contiguous().clone() for name, x in tensors.items()}, partial / "points.safetensors")
    parameters = {name: _described(parameter) for name, parameter in loss_fn.model.named_parameters()}
    (partial / "parameters.json").write_text(json.dumps(parameters, indent=1))
    (partial / "metrics.jsonl").write_text("".join(json.dumps(written(line)) + "\n" for line in lines[-_LINES:]))
    (partial / "forensics.json").write_text(json.dumps(facts, indent=1))
    shutil.rmtree(folder, ignore_errors=True)
    os.rename(partial, folder)
    return folder


def _described(parameter: Tensor) -> dict[str, Any]:
    values = parameter.detach().double()
    return {"shape": list(parameter.shape)} | written(
        {
            "norm": float(values.norm()),
            "largest": float(values.abs().max()) if values.numel() else 0.0,
            "not_finite": int((~values.isfinite()).sum()),
            "gradient_norm": None if parameter.grad is None else float(parameter.grad.double().norm()),
        }
    )
