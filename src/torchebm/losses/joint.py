"""Classification and contrastive divergence of one network."""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from torchebm.core.checks import number
from torchebm.core.loss import LossOutput
from torchebm.core.model import BaseModel
from torchebm.core.random import randn
from torchebm.core.sampler import BaseSampler

from .contrastive_divergence import ContrastiveDivergence

__all__ = ["JointContrastiveDivergence", "class_logits"]


class JointContrastiveDivergence(ContrastiveDivergence):
    r"""Maximises $\log p(x, y)$ of a `JointEnergyModel`: $\log p(y \mid x)$ exactly, $\log p(x)$ by sampling.

    $L = w \, \langle -\log p(y \mid x) \rangle_\mathrm{labelled} + L_\mathrm{CD}(x)$

    A batch is a pair `(x, label)`, or points alone, which have no share in the first term: so data of which few rows
    are labelled are two batches in turn. Everything else is as in `ContrastiveDivergence`.

    Args:
        model: A `JointEnergyModel`, or a model that is one in other units.
        sampler: Draws the negatives, from the same model.
        classification_weight: $w$; 1 for the likelihood of pairs.
        **options: Those of `ContrastiveDivergence`.

    Returns:
        `loss, negatives = loss_fn((x, label))`; the metrics hold `cross_entropy` and `accuracy` on the batch, with its
        noise, besides those of the contrastive term.

    Note:
        One more evaluation of the batch than `ContrastiveDivergence`. The noise added for classification is drawn
        anew.

    References: Grathwohl et al. (2020), https://arxiv.org/abs/1912.03263

    Example:
        >>> from torchebm.models import MLP, JointEnergyModel
        >>> from torchebm.samplers import LangevinDynamics
        >>> model = JointEnergyModel(MLP(2, [16], 3), n_classes=3)
        >>> loss_fn = JointContrastiveDivergence(model, LangevinDynamics(model), k_steps=5)
        >>> loss, negatives = loss_fn((torch.randn(64, 2), torch.randint(3, (64,))))
        >>> negatives.shape
        torch.Size([64, 2])
    """

    def __init__(self, model: BaseModel, sampler: BaseSampler, k_steps: int = 10, *,
                 classification_weight: float = 1.0, **options: Any) -> None:  # fmt: skip
        super().__init__(model, sampler, k_steps, **options)
        self.classification_weight = number("classification_weight", classification_weight, at_least=0.0)

    def evaluate(
        self,
        batch: Float[Tensor, " batch *event"] | tuple[Float[Tensor, " batch *event"], Int[Tensor, " batch"]],
        *,
        generator: torch.Generator | None = None,
    ) -> LossOutput:
        if not (isinstance(batch, (tuple, list)) and len(batch) == 2 and isinstance(batch[0], Tensor)):
            return super().evaluate(batch, generator=generator)
        x, label = batch
        if not isinstance(label, Tensor) or label.shape != x.shape[:1] or label.is_floating_point():
            what = f"shape {list(label.shape)}, {label.dtype}" if isinstance(label, Tensor) else type(label).__name__
            raise ValueError(f"labels must be whole numbers [{len(x)}], one a point of the batch; got {what}.")
        output = super().evaluate(x, generator=generator)
        x = x.detach()
        if isinstance(self.data_noise, Tensor) or self.data_noise > 0:
            x = x + self.data_noise * randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)
        logits = class_logits(self.model, x)
        cross_entropy = F.cross_entropy(logits, label)
        accuracy = (logits.argmax(1) == label).to(x.dtype).mean()
        return output._replace(
            loss=output.loss + self.classification_weight * cross_entropy,
            metrics=output.metrics | {"cross_entropy": cross_entropy.detach(), "accuracy": accuracy},
        )


def class_logits(model: BaseModel, x: Float[Tensor, " batch *event"]) -> Float[Tensor, "batch n_classes"]:
    r"""The logits of a joint model, in whatever units it is: $p(y \mid x)$ is their softmax.

    Args:
        model: A model with `logits`, or one that is such a model in other coordinates.
        x: Points, in the model's units.

    Raises:
        TypeError: If the model knows no classes.
    """
    inner, transform = model.coordinates()
    logits = getattr(inner, "logits", None)
    if logits is None:
        raise TypeError(f"{type(inner).__name__} knows no classes: it has no `logits(x)`, as JointEnergyModel has.")
    return logits(x if transform is None else transform.inv(x))
