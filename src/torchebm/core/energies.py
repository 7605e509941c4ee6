"""The check that energies are numbers, with one wording."""

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["NonFiniteEnergyError", "check_energies"]


class NonFiniteEnergyError(ArithmeticError):
    """The model gave an energy that is infinite or NaN, so there is no loss."""


def check_energies(**energies: Float[Tensor, " n"]) -> None:
    """Refuses energies that are not finite, with the numbers in the message."""
    # one by one, since sums of finite energies overflow
    if bool(torch.stack([energy.isfinite().all() for energy in energies.values()]).all()):
        return
    parts = []
    for name, energy in energies.items():
        bad = ~energy.isfinite()
        finite = energy.detach()[~bad]
        extent = f"the others from {finite.min():.4g} to {finite.max():.4g}" if len(finite) else "no other"
        parts.append(f"{int(bad.sum())} of {len(energy)} energies of {name} are not finite ({extent})")
    raise NonFiniteEnergyError(
        "; ".join(parts)
        + ". Usual fixes: a smaller learning rate or sampler step size, grad_clip_norm, spectral norm, "
        "or a larger energy_reg_weight."
    )
