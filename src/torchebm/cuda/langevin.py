"""One Langevin step."""

import torch
from jaxtyping import Float
from torch import Tensor

from torchebm.core.model import BaseModel
from torchebm.samplers.langevin import LangevinDynamics

__all__ = ["langevin_step_cuda"]


def langevin_step_cuda(x: Float[Tensor, " chain *event"], energy_function: BaseModel, step_size: float = 0.01,
                       noise_scale: float = 1.0, *,
                       generator: torch.Generator | None = None) -> Float[Tensor, " chain *event"]:  # fmt: skip
    r"""One Langevin step, $x - h \nabla E(x) + s \sqrt{2h}\,\xi$, on whatever device `x` is.

    For now this is plain PyTorch everywhere, the twin that a fused kernel will be tested against.

    Args:
        x: Where the chains are.
        energy_function: The model.
        step_size: $h$.
        noise_scale: $s$, the square root of the temperature.
        generator: Source of the noise.

    Returns:
        Where the chains are next.
    """
    return LangevinDynamics(energy_function, step_size, noise_scale).sample(x=x, n_steps=1, generator=generator)
