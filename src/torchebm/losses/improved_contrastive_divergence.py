"""Contrastive divergence with the term that is usually left out, and an estimate of the entropy."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from torchebm.core.checks import integer, number
from torchebm.core.loss import LossOutput
from torchebm.core.model import BaseModel, evaluating
from torchebm.core.random import randint
from torchebm.core.sampler import BaseSampler
from torchebm.core.target import Target
from torchebm.samplers import LangevinDynamics

from .contrastive_divergence import ContrastiveDivergence

__all__ = ["ImprovedContrastiveDivergence"]


class ImprovedContrastiveDivergence(ContrastiveDivergence):
    r"""Contrastive divergence that also trains the energy through the last step of its chains.

    $L = L_\mathrm{CD} + w_K \, \langle E_{\bar\theta}(\tilde x_\theta) \rangle - w_H \, \langle \log \min_j \|\tilde
    x_\theta - x_j\| \rangle$

    Short chains leave a gap to the model, whose gradient contrastive divergence omits: that of the energy $E$ of the
    samples, with its weights held ($\bar\theta$), through the step that made them, $\tilde x_\theta = x - h \nabla
    E_\theta(x) + s \sqrt{2h}\,\xi$. The last term estimates their entropy by the distance to the nearest neighbour
    among samples $x_j$, and keeps them apart.

    Args:
        model: The energy to train; its second derivatives are needed.
        sampler: `LangevinDynamics` of the same model.
        kl_weight: $w_K$.
        entropy_weight: $w_H$, of the mean logarithm of the distance; the dimension is not in it.
        n_neighbours: Samples from the replay buffer that distances are measured to. Without a buffer, or before it is
            filled, they are the other negatives of the batch.
        **options: Those of `ContrastiveDivergence`.

    Raises:
        TypeError: If the sampler is another one.

    Note:
        The last step costs about three gradients instead of one, and the memory of its graph. With both weights 0 it is
        contrastive divergence, draw for draw.

    References: Du et al. (2021), Improved contrastive divergence training of energy based models,
    https://arxiv.org/abs/2012.01316

    Example:
        >>> from torchebm.models import MLPEnergy
        >>> model = MLPEnergy(2, [16])
        >>> loss_fn = ImprovedContrastiveDivergence(model, LangevinDynamics(model), k_steps=5)
        >>> loss, negatives = loss_fn(torch.randn(64, 2))
        >>> loss.backward()
        >>> negatives.requires_grad
        False
    """

    def __init__(self, model: BaseModel, sampler: BaseSampler, k_steps: int = 10, *, kl_weight: float = 1.0,
                 entropy_weight: float = 0.3, n_neighbours: int = 100, **options: Any) -> None:  # fmt: skip
        super().__init__(model, sampler, k_steps, **options)
        if not isinstance(sampler, LangevinDynamics):
            raise TypeError(
                "the loss differentiates through a step of LangevinDynamics; "
                f"got the sampler {type(sampler).__name__}, which has another."
            )
        self.kl_weight = number("kl_weight", kl_weight, at_least=0.0)
        self.entropy_weight = number("entropy_weight", entropy_weight, at_least=0.0)
        self.n_neighbours = integer("n_neighbours", n_neighbours, at_least=1)
        self._last_step: Tensor | None = None  # the negatives with the graph of the step that made them

    def evaluate(
        self, batch: Float[Tensor, " batch *event"], *, generator: torch.Generator | None = None
    ) -> LossOutput:
        output = super().evaluate(batch, generator=generator)
        x, self._last_step = cast(Tensor, self._last_step), None
        loss, metrics = output.loss, output.metrics
        if self.kl_weight > 0:
            with evaluating(self.model):
                kl = self.model(x).mean()
            loss, metrics = loss + self.kl_weight * kl, metrics | {"kl": kl.detach()}
        if self.entropy_weight > 0:
            distance = _nearest(x, self._neighbours(x, generator)).log().mean()
            loss = loss - self.entropy_weight * distance
            metrics = metrics | {"log_neighbour_distance": distance.detach()}
        return output._replace(loss=loss, metrics=metrics)

    def _sample(self, start: Tensor, generator: torch.Generator | None) -> tuple[Tensor, dict[str, Tensor]]:
        """All steps but the last as ever, and the last with its graph."""
        sampler = cast(LangevinDynamics, self.sampler)
        run = sampler.run(x=start, n_steps=self.k_steps - 1, generator=generator,
                          reset_schedulers=self.reset_schedulers)  # fmt: skip
        model, transform = self.model.coordinates()
        target = DifferentiableTarget(model, precision=sampler.precision)
        now = {name: values[0] for name, values in sampler.parameter_table(run.state.step, 1).items()}
        noise = (sampler.noise(run.state.x, 1)[0][0],)
        sampler.draw(noise, generator)
        with torch.enable_grad(), in_eval_mode(self.model):
            z = run.state.x.clone().requires_grad_()
            state, _ = sampler.step(sampler.init(z, target, generator), noise, target, **now)
            x = state.x if transform is None else cast(Tensor, transform(state.x)).to(z.dtype)
        for scheduler in sampler.schedulers.values():
            scheduler.step_count = run.state.step + 1
        self._last_step = x
        return x.detach(), {}

    def _neighbours(self, x: Tensor, generator: torch.Generator | None) -> Tensor | None:
        """Samples of earlier updates, if there are any."""
        if self.replay_buffer is None or self.replay_buffer.chains.numel() == 0:
            return None
        chains = self.replay_buffer.chains
        return chains[randint(len(chains), (self.n_neighbours,), generator=generator, device=chains.device)].to(x)


class DifferentiableTarget(Target):
    """A target whose gradient is part of the graph: of the model's weights, and of where it is taken."""

    def gradient(self, x: Float[Tensor, " chain *event"]) -> Float[Tensor, " chain *event"]:
        """The gradient of the energy at `x`, which must require one."""
        with torch.autocast(x.device.type, dtype=self.autocast_dtype, enabled=self.autocast_dtype is not None):
            energy = self.model(x, **self.model_kwargs)
        (gradient,) = torch.autograd.grad(energy.sum(), x, create_graph=True)
        return gradient.to(x.dtype)


def _nearest(x: Tensor, others: Tensor | None) -> Float[Tensor, " n"]:
    """Distance from each point to the nearest of the others, or of the rest of them."""
    if others is None and len(x) == 1:
        raise ValueError("one negative has no neighbour: give batches of two points or more, or entropy_weight=0.")
    flat, near = (t.reshape(len(t), -1) for t in (x, x.detach() if others is None else others))
    distance = torch.cdist(flat, near, compute_mode="donot_use_mm_for_euclid_dist")  # [n, m]; exact for close points
    if others is None:
        distance = distance.masked_fill(torch.eye(len(x), dtype=torch.bool, device=x.device), torch.inf)
    return distance.amin(1)


@contextmanager
def in_eval_mode(model: nn.Module) -> Iterator[None]:
    """The model in `eval()`, its parameters as they are, and its modes as they were afterwards."""
    training = [module for module in model.modules() if module.training]
    try:
        for module in training:
            module.training = False
        yield
    finally:
        for module in training:
            module.training = True
