"""A classifier and a generator in one."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from torchebm.core.checks import integer
from torchebm.core.model import BaseModel

__all__ = ["JointEnergyModel"]


class JointEnergyModel(BaseModel):
    r"""A classifier whose logits f are read as a joint energy of points and classes.

    $E(x, y) = E_0(x) - f(x)_y$, so that $E(x) = E_0(x) - \log \sum_y e^{f(x)_y}$ and
    $p(y \mid x) = \mathrm{softmax}(f(x))_y$

    One network classifies (`logits`), models the data (`model(x)`) and each of its classes (`model(x, label=y)`, the
    energy of $p(x \mid y)$ up to a constant): every sampler draws one or the other, the latter with
    `model_kwargs={"label": y}`. What a classifier leaves open, the level of its logits, is what the energy is made of.

    Args:
        network: The classifier, `[batch, *event] -> [batch, n_classes]`.
        n_classes: Number of classes, two or more.
        base: $E_0$, an energy that all classes share, such as a bowl that confines them; 0 if left out.
        event_shape: Shape of one point, if samplers shall know it.

    Note:
        Without a base the energy need not confine: whether $e^{-E}$ has a normaliser depends on the network. Labels are
        whole numbers below `n_classes`; others are an error of the indexing, or, on an accelerator, an assertion.

    References: Grathwohl et al. (2020), Your classifier is secretly an energy based model,
    https://arxiv.org/abs/1912.03263

    Example:
        >>> from torchebm.samplers import LangevinDynamics
        >>> model = JointEnergyModel(nn.Linear(2, 3), n_classes=3)
        >>> x, y = torch.zeros(5, 2), torch.tensor([0, 1, 2, 0, 1])
        >>> torch.allclose(torch.softmax(model.logits(x), 1)[0, 1], torch.exp(model(x) - model(x, label=y))[1])
        True
        >>> LangevinDynamics(model, step_size=0.01).sample(x, n_steps=3, model_kwargs={"label": y}).shape
        torch.Size([5, 2])
    """

    def __init__(self, network: nn.Module | Callable[..., Tensor], n_classes: int,
                 base: BaseModel | None = None, event_shape: Sequence[int] | None = None) -> None:  # fmt: skip
        super().__init__()
        if not callable(network):
            raise TypeError(f"network must be an nn.Module or a callable; got {type(network).__name__}.")
        self.network = network
        self.n_classes = integer("n_classes", n_classes, at_least=2)
        self.base = base
        if event_shape is not None:
            self.event_shape = torch.Size(event_shape)

    def logits(self, x: Float[Tensor, " batch *event"]) -> Float[Tensor, "batch n_classes"]:
        r"""$f(x)$: unnormalised log-probabilities of the classes, one row a point."""
        logits = self.network(x)
        if logits.shape != (len(x), self.n_classes):
            raise ValueError(
                f"the network returned logits of shape {list(logits.shape)}; expected {[len(x), self.n_classes]}, one "
                "a point and class: give its last layer n_classes outputs."
            )
        return logits

    def forward(self, x: Float[Tensor, " batch *event"],
                label: Int[Tensor, " batch"] | None = None) -> Float[Tensor, " batch"]:  # fmt: skip
        logits = self.logits(x)
        if label is None:
            energy = -torch.logsumexp(logits, 1)
        elif label.shape != x.shape[:1]:
            raise ValueError(f"label has shape {list(label.shape)}; expected {list(x.shape[:1])}, one a point.")
        else:
            energy = -logits.gather(1, label.unsqueeze(1)).squeeze(1)
        return energy if self.base is None else energy + self.base(x)
