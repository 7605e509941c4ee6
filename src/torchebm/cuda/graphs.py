"""Compiled blocks of steps as CUDA graphs: one launch for all the kernels of a block."""

from typing import Any

import torch

from torchebm.core.compiled import CompiledBlocks
from torchebm.core.specialised import Specialised

__all__ = ["GraphedBlocks"]


class GraphedBlocks(CompiledBlocks):
    """Compiled blocks that Inductor records as CUDA graphs on an accelerator; elsewhere, compiled blocks."""

    def __init__(self, sampler: Any, block: int | None, options: dict[str, Any]) -> None:
        super().__init__(sampler, block, options)
        self.function = _Graphed(self.function.function, options, self.function.what)


class _Graphed(Specialised):
    def _compile(self, device: torch.device, differentiated: bool, small: bool) -> Any:
        ours = device.type == "cuda" and "mode" not in self.options
        if ours and self.options.get("backend", "inductor") == "inductor":
            self.options["options"] = {"triton.cudagraphs": True, **self.options.get("options", {})}
        return super()._compile(device, differentiated, small)
