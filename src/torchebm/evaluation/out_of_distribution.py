"""Does the energy tell what it has learned from what it has not? Detection of outsiders, and some to try."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor

from torchebm.core.checks import number
from torchebm.core.model import BaseModel, as_model, evaluating
from torchebm.core.random import uniform

from .points import as_points, draws_on, in_batches

__all__ = ["OutOfDistribution", "auroc", "inverted", "out_of_distribution", "outsiders", "shuffled", "uniform_noise"]

SCORES = ("energy", "score_norm", "max_probability")


@dataclass(frozen=True, eq=False, repr=False)
class OutOfDistribution:
    """What `out_of_distribution` found; printing it shows a table."""

    auroc: dict[str, dict[str, float]]
    """By score and name of the outsiders: the probability that an outsider's score is the more suspicious one."""
    standard_error: dict[str, dict[str, float]]
    """Of each."""

    def __repr__(self) -> str:
        names = list(next(iter(self.auroc.values())))
        rows = [("AUROC", *names)]
        for score, row in self.auroc.items():
            rows.append((score, *(f"{row[name]:.3f} ± {self.standard_error[score][name]:.3f}" for name in names)))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return "\n".join("  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows)


def out_of_distribution(model: BaseModel | Callable[..., Tensor], inside: Float[Tensor, " n *event"],
                        outside: Mapping[str, Float[Tensor, " m *event"]],
                        scores: Sequence[str] | None = None, *, batch_size: int = 512,
                        model_kwargs: dict[str, Any] | None = None) -> OutOfDistribution:  # fmt: skip
    r"""How well an energy tells held-out data from other points, for each kind of these and each score.

    The AUROC is $P(t(y) > t(x)) + \tfrac12 P(t(y) = t(x))$ for an outsider y and a point x of the data: 1 if the score
    t parts them, 0.5 if it says nothing, and below if outsiders look more like data than data does.

    Args:
        model: The energy; with `logits(x) -> [batch, class]` if it classifies as well.
        inside: Held-out data: training data would flatter.
        outside: Other points, by name; `outsiders` makes some.
        scores: Of `"energy"`, high for outsiders; `"score_norm"`, $\|\nabla E\|$, high for them; `"max_probability"`,
            the probability of the likeliest class, low for them. All that the model has if left out.
        batch_size: Points that the model sees at a time.
        model_kwargs: Keyword arguments for energy and gradient.

    Raises:
        ValueError: If sets are empty, not finite or of different shapes, a score is unknown, or one is not finite.

    Note:
        Energies need not know outsiders: low energies are often a matter of smoothness or contrast, and published
        comparisons find no consistent advantage over other scores (Elflein et al. 2021). Report it beside what matters.
        Standard errors are those of DeLong, of the points at hand.

    References: Grathwohl et al. (2020), https://arxiv.org/abs/1912.03263; DeLong et al. (1988),
    https://doi.org/10.2307/2531595; Elflein et al. (2021), https://arxiv.org/abs/2107.08785

    Example:
        >>> from torchebm.core import HarmonicModel
        >>> g = torch.Generator().manual_seed(0)
        >>> inside, far = torch.randn(200, 2, generator=g), 2 + torch.randn(200, 2, generator=g)
        >>> out_of_distribution(HarmonicModel(dim=2), inside, {"shifted": far})
        AUROC             shifted
        energy      0.941 ± 0.012
        score_norm  0.941 ± 0.012
    """
    model = as_model(model)
    if not isinstance(outside, Mapping) or not outside:
        raise TypeError(f"outside must be a dict of sets by name, such as outsiders(inside); got {outside!r:.80}.")
    chosen = _chosen(scores, model)
    sets = {"inside": inside, **{f"outside[{name!r}]": x for name, x in outside.items()}}
    for name, x in sets.items():
        as_points(name, x)
        if x.shape[1:] != inside.shape[1:]:
            raise ValueError(f"{name} holds points of shape {list(x.shape[1:])}, inside of {list(inside.shape[1:])}.")
    measure = _measures(model, model_kwargs, batch_size)
    found: dict[str, dict[str, float]] = {}
    errors: dict[str, dict[str, float]] = {}
    for score in chosen:
        values = [as_points(f"{score} of {name}", measure[score](x))[:, 0] for name, x in sets.items()]
        both = [auroc(values[0], other) for other in values[1:]]
        found[score] = dict(zip(outside, (value for value, _ in both), strict=True))
        errors[score] = dict(zip(outside, (error for _, error in both), strict=True))
    return OutOfDistribution(found, errors)


def auroc(inside: Float[Tensor, " n"], outside: Float[Tensor, " m"]) -> tuple[float, float]:
    """The probability that a number of the second set is larger than one of the first, ties being half, and its
    standard error, NaN where a set has one number.

    Example:
        >>> auroc(torch.tensor([1.0, 2.0]), torch.tensor([2.0, 3.0]))[0]
        0.875
    """
    below = _share_below(inside, outside)  # of each outsider: how many insiders it exceeds
    above = 1 - _share_below(outside, inside)
    if min(len(below), len(above)) < 2:
        return float(below.mean()), math.nan
    return float(below.mean()), float((below.var() / len(below) + above.var() / len(above)).sqrt())


def outsiders(x: Float[Tensor, " n *event"], generator: torch.Generator | None = None,
              bounds: tuple[float, float] | None = None) -> dict[str, Float[Tensor, " n *event"]]:  # fmt: skip
    """Three kinds of points that are no data but have its range: `inverted`, `uniform` and `shuffled`.

    Args:
        x: Data; images `[n, (channel,) height, width]` or rows `[n, d]`.
        generator: Source of randomness.
        bounds: Least and largest value that there is; those of the data if left out, of each column in rows.

    Example:
        >>> sorted(outsiders(torch.rand(10, 1, 8, 8)))
        ['inverted', 'shuffled', 'uniform']
    """
    return {
        "inverted": inverted(x, bounds),
        "uniform": uniform_noise(x, generator, bounds),
        "shuffled": shuffled(x, generator),
    }


def inverted(x: Float[Tensor, " n *event"], bounds: tuple[float, float] | None = None) -> Float[Tensor, " n *event"]:
    """The negative: dark for light, low for high.

    Example:
        >>> inverted(torch.tensor([[0.0], [1.0], [5.0]])).flatten().tolist()
        [5.0, 4.0, 0.0]
    """
    low, high = _range(x, bounds)
    return low + high - x


def uniform_noise(x: Float[Tensor, " n *event"], generator: torch.Generator | None = None,
                  bounds: tuple[float, float] | None = None) -> Float[Tensor, " n *event"]:  # fmt: skip
    """As many points with independent entries, uniform between the bounds.

    Example:
        >>> noise = uniform_noise(torch.tensor([[0.0], [8.0]]))
        >>> bool(((noise >= 0) & (noise < 8)).all())
        True
    """
    low, high = _range(x, bounds)
    draws = uniform(x.shape, generator=generator, dtype=x.dtype, device=draws_on(x, generator)).to(x.device)
    return low + (high - low) * draws


def shuffled(x: Float[Tensor, " n *event"], generator: torch.Generator | None = None) -> Float[Tensor, " n *event"]:
    """Data without its structure: each image's pixels in an order of its own; each column of a table among the rows.

    Pixels keep their channels. So the grey values of each image, or the distribution of each column, are those of data.

    Example:
        >>> x = torch.arange(8.0).reshape(2, 2, 2)
        >>> shuffled(x).flatten(1).sort(1).values.tolist()
        [[0.0, 1.0, 2.0, 3.0], [4.0, 5.0, 6.0, 7.0]]
    """
    as_points("x", x)
    device = draws_on(x, generator)
    if x.ndim < 3:
        order = uniform(x.shape, generator=generator, dtype=torch.float64, device=device).argsort(0)
        return x.gather(0, order.to(x.device))
    pixels = x.flatten(-2)  # [n, ..., pixel]
    order = uniform((len(x), pixels.shape[-1]), generator=generator, dtype=torch.float64, device=device).argsort(1)
    order = order.to(x.device).reshape(len(x), *[1] * (pixels.ndim - 2), -1)
    return pixels.gather(-1, order.expand_as(pixels)).reshape(x.shape)


def _range(x: Tensor, bounds: tuple[float, float] | None) -> tuple[Any, Any]:
    as_points("x", x)
    if bounds is not None:
        low, high = (number("each of bounds", bound) for bound in bounds)
        if low >= high:
            raise ValueError(f"bounds must be (low, high) with low < high; got {tuple(bounds)}.")
        return low, high
    return (x.amin(), x.amax()) if x.ndim > 2 else (x.amin(0), x.amax(0))


def _share_below(reference: Tensor, values: Tensor) -> Tensor:
    """For each value, the share of the reference that is less, and half of what is equal."""
    ordered = reference.sort().values
    less, not_more = (torch.searchsorted(ordered, values.contiguous(), right=right) for right in (False, True))
    return (less + not_more).double() / (2 * len(ordered))


def _chosen(scores: Sequence[str] | None, model: BaseModel) -> Sequence[str]:
    classifies = callable(getattr(model, "logits", None))
    if scores is None:
        return SCORES if classifies else SCORES[:2]
    if isinstance(scores, str) or not scores or not set(scores) <= set(SCORES):
        raise ValueError(f"scores must be some of {SCORES}; got {scores!r}.")
    if "max_probability" in scores and not classifies:
        raise ValueError(f"{type(model).__name__} has no logits(x) -> [batch, class], so it knows no probabilities.")
    return scores


def _measures(model: BaseModel, model_kwargs: dict[str, Any] | None,
              batch_size: int) -> dict[str, Callable[[Tensor], Tensor]]:  # fmt: skip
    """Each score as a function of points, the higher the more suspicious."""

    def uncertainty(part: Tensor) -> Tensor:
        """The log-odds against the likeliest class, which fall as its probability rises and never saturate."""
        logits = cast(Any, model).logits(part).cpu().double()
        if logits.ndim != 2 or logits.shape[1] < 2:
            raise ValueError(f"logits returned shape {list(logits.shape)}; expected [{len(part)}, class].")
        best = logits.argmax(1, keepdim=True)
        return logits.scatter(1, best, -torch.inf).logsumexp(1) - logits.gather(1, best).squeeze(1)

    def measured(function: Callable[..., Tensor], kwargs: dict[str, Any] | None) -> Callable[[Tensor], Tensor]:
        def measure(x: Tensor) -> Tensor:
            with evaluating(model), torch.no_grad():
                return in_batches(function, x, batch_size, kwargs).cpu().double()

        return measure

    def norm(part: Tensor, **kwargs: Any) -> Tensor:
        return model.score(part, **kwargs).cpu().double().reshape(len(part), -1).norm(dim=1)

    return {
        "energy": measured(model, model_kwargs),
        "score_norm": measured(norm, model_kwargs),
        "max_probability": measured(uncertainty, None),
    }
