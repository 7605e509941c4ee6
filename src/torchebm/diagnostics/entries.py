"""What diagnostics read: a trajectory split into named entries, flags and rates per draw, and a first look at them."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["Entries", "Names", "Screening", "diverging_draws", "per_draw", "screen"]

Names = str | Sequence[str] | Mapping[str, int | slice | tuple[int, ...]] | None

PER_DRAW = {"acceptance_rate", "diverging", "energy", "n_steps", "step_size", "tree_depth"}
OVER_CHAINS = {"mean", "var"}  # [draw, *event], which may have the shape [chain, draw] by accident


def as_array(values: Any) -> np.ndarray:
    """A tensor of any device and dtype, or what NumPy reads, as an array; the narrow floats become float32."""
    if isinstance(values, Tensor):
        narrow = values.dtype in (torch.bfloat16, torch.float16)
        values = values.detach().to("cpu", torch.float32 if narrow else values.dtype).numpy()
    array = np.asarray(values)
    return array.astype(np.float32) if array.dtype == np.float16 else array


def as_trajectory(trajectory: Any) -> np.ndarray:
    """The draws as an array `[chain, draw, *event]`, checked."""
    array = as_array(trajectory)
    if array.ndim < 2 or 0 in array.shape:
        raise ValueError(
            f"trajectory has shape {list(array.shape)}; expected [chain, draw, *event], chains first, with a chain and "
            "a draw at least. One chain becomes trajectory[None]; a list of states becomes torch.stack(states, dim=1)."
        )
    if array.dtype.kind not in "fiub":
        raise TypeError(f"trajectory must hold real numbers; got {array.dtype}.")
    return array


class Entries:
    """A trajectory, the variables it is made of, and a label for each of their entries.

    Args:
        trajectory: `[chain, draw, *event]`, a tensor or an array.
        names: See `to_arviz`.
    """

    def __init__(self, trajectory: Float[Tensor, "chain draw *event"] | np.ndarray, names: Names = None) -> None:
        array = as_trajectory(trajectory)
        self.n_chains, self.n_draws, *event = array.shape
        self.flat = array.reshape(self.n_chains, self.n_draws, -1)  # [chain, draw, place]
        places = np.arange(self.flat.shape[2]).reshape(event)
        self.places: dict[str, np.ndarray] = named(places, names)
        """Of each variable, where its entries lie in the flattened event."""
        self.columns = np.concatenate([place.ravel() for place in self.places.values()])
        self.labels = [label for name, place in self.places.items() for label in labels_of(name, place.shape)]

    def __len__(self) -> int:
        return len(self.labels)

    def variables(self) -> dict[str, np.ndarray]:
        """Each variable as `[chain, draw, *shape]`."""
        sizes = self.n_chains, self.n_draws
        return {name: self.flat[:, :, run(place.ravel())].reshape(*sizes, *place.shape)
                for name, place in self.places.items()}  # fmt: skip

    def values(self, chosen: Sequence[int] | np.ndarray) -> np.ndarray:
        """The chosen entries in float64, `[chain, draw, entry]`."""
        return self.flat[:, :, run(self.columns[chosen])].astype(np.float64)

    def find(self, wanted: Iterable[str]) -> list[int]:
        """Positions of entries, given by label or, all entries of a variable together, by its name."""
        position = {label: k for k, label in enumerate(self.labels)}
        found = []
        for name in wanted:
            if name not in position and name not in self.places:
                raise ValueError(f"there is no entry {name!r}; there are {listed(self.labels)}.")
            in_variable = () if name in position else labels_of(name, self.places[name].shape)
            found += [position[label] for label in in_variable or [name]]
        return found


def run(places: np.ndarray) -> np.ndarray | slice:
    """The same places as a slice, if they follow each other, so that nothing is copied."""
    follow = len(places) > 0 and bool((np.diff(places) == 1).all())
    return slice(places[0], places[-1] + 1) if follow else places


def named(places: np.ndarray, names: Names) -> dict[str, np.ndarray]:
    """The places of each variable; see `to_arviz` for the forms that names take."""
    if names is None or isinstance(names, str):
        return {checked_name(names or "x"): places}
    event = list(places.shape)
    if len(event) > 1:
        raise ValueError(
            f"names of entries are for events that are vectors; this event has shape {event}. Leave names out, or give "
            'one name for all of it, names="image".'
        )
    places = places.ravel()  # a scalar event has one place
    n = len(places)
    if not isinstance(names, Mapping):
        names = list(names)
        if len(names) != n or len(set(names)) != n:
            raise ValueError(
                f"names has {len(names)} entries, {len(set(names))} of them distinct; expected {n} distinct names, one "
                f"for each entry of an event of shape {event}."
            )
        return {checked_name(name): place.reshape(()) for name, place in zip(names, places, strict=True)}
    if not names:
        raise ValueError("names is empty; expected a name for one variable at least.")
    shapes = [where for where in names.values() if isinstance(where, tuple)]
    if shapes:
        if len(shapes) < len(names):
            raise ValueError(
                "names mixes shapes with places: give the shape of every variable, in the order in which they lie in "
                'the vector, {"alpha": (), "beta": (3,)}, or the place of every one, {"alpha": 0, "beta": slice(1, 4)}.'
            )
        sizes = [int(np.prod(shape)) for shape in shapes]
        if sum(sizes) != n or min(sizes) < 1:
            raise ValueError(
                f"the shapes in names hold {' + '.join(map(str, sizes))} = {sum(sizes)} entries; expected {n}, all of "
                f"an event of shape {event}, and one for each variable at least."
            )
        parts = np.split(places, np.cumsum(sizes)[:-1])
        return {checked_name(name): part.reshape(shape)
                for name, part, shape in zip(names, parts, shapes, strict=True)}  # fmt: skip
    return {checked_name(name): place_of(name, where, places) for name, where in names.items()}


def place_of(name: str, where: Any, places: np.ndarray) -> np.ndarray:
    if isinstance(where, bool) or not isinstance(where, (int, slice)):
        raise TypeError(
            f"names[{name!r}] is {where!r}; expected an index, a slice or a shape: 4, slice(1, 4) or (2, 2)."
        )
    inside = isinstance(where, slice) or -len(places) <= where < len(places)
    place = np.asarray(places[where]) if inside else np.empty(0)
    if place.size == 0:
        raise ValueError(f"names[{name!r}] is {where!r}, which holds no entry of an event of shape {[len(places)]}.")
    return place


def checked_name(name: Any) -> str:
    if not isinstance(name, str):
        raise TypeError(f"names must be strings; got {name!r} of type {type(name).__name__}.")
    if name in ("chain", "draw", ""):
        raise ValueError(f"{name!r} cannot name a variable: ArviZ calls the axes chain and draw. Choose another name.")
    return name


def labels_of(name: str, shape: tuple[int, ...]) -> list[str]:
    """As ArviZ writes them: `x`, `x[2]`, `x[0, 1]`."""
    return [f"{name}[{', '.join(map(str, index))}]" if shape else name for index in np.ndindex(shape)]


def listed(labels: Sequence[str], at_most: int = 8) -> str:
    more = f" and {len(labels) - at_most} more" if len(labels) > at_most else ""
    return ", ".join(labels[:at_most]) + more


def per_draw(diagnostics: Mapping[str, Any] | None, n_chains: int, n_draws: int) -> dict[str, np.ndarray]:
    """The diagnostics that have a value for each chain and draw, `[chain, draw, ...]`.

    Raises:
        ValueError: If one that must be of this shape is not: it belongs to another run.
    """
    kept = {}
    for name, values in (diagnostics or {}).items():
        array = as_array(values)
        if name not in OVER_CHAINS and array.shape[:2] == (n_chains, n_draws):
            kept[name] = array
        elif name in PER_DRAW and array.ndim:
            raise ValueError(
                f"diagnostics[{name!r}] has shape {list(array.shape)}; expected {[n_chains, n_draws]} = [chain, draw], "
                "as the trajectory has: take both from the same call of sample."
            )
    return kept


def diverging_draws(stats: Mapping[str, np.ndarray]) -> np.ndarray | None:
    """`[chain, draw]`, true where a transition diverged; `None` if nobody has looked."""
    return stats["diverging"].astype(bool) if "diverging" in stats else None


class Screening(NamedTuple):
    """A first look at every entry, in one pass over the draws."""

    n_bad: np.ndarray
    """`[chain]`: draws that are not finite."""
    first_bad: np.ndarray
    """`[chain]`: the first of them, -1 where there is none."""
    moved: np.ndarray
    """`[chain]`: whether any entry changed."""
    constant: np.ndarray
    """`[entry]`: the same in every draw of every chain."""
    frozen: np.ndarray
    """`[entry]`: the same in every draw of each chain."""
    disagreement: np.ndarray
    """`[entry]`: variance of the means of half chains over their mean variance: large where R-hat will be large or the
    effective sample small. It only chooses which entries to look at; -1 where the entry is constant."""


def screen(entries: Entries) -> Screening:
    """Looks once at every draw, a chain at a time, so that a trajectory of images need not be copied."""
    n_chains, n_draws = entries.n_chains, entries.n_draws
    places = run(entries.columns)
    n_bad, first_bad = np.zeros(n_chains, int), np.full(n_chains, -1)
    moved = np.zeros(n_chains, bool)
    frozen, first = np.ones(len(entries), bool), np.zeros((n_chains, len(entries)))
    halves = 2 if n_draws >= 4 else 1
    means, variances = [], np.zeros(len(entries))
    with np.errstate(all="ignore"):  # what is not finite is counted, not computed
        for chain in range(n_chains):
            x = entries.flat[chain][:, places]  # [draw, entry]
            bad = ~np.isfinite(x).all(1)
            n_bad[chain], first_bad[chain] = bad.sum(), int(bad.argmax()) if bad.any() else -1
            still = (x == x[0]).all(0)
            frozen &= still
            moved[chain] = not still.all()
            first[chain] = x[0]
            for half in np.array_split(x, halves):
                means.append(half.mean(0, dtype=np.float64))
                variances += half.var(0, dtype=np.float64) / (halves * n_chains)
        constant = frozen & (first == first[0]).all(0)
        disagreement = np.var(means, axis=0) / np.where(frozen, 0.0, variances)
    disagreement = np.where(np.isnan(disagreement), np.inf, disagreement)
    return Screening(n_bad, first_bad, moved, constant, frozen, np.where(constant, -1.0, disagreement))


def worst(disagreement: np.ndarray, at_most: int | None) -> np.ndarray:
    """Positions of the entries whose chains disagree most, in their own order; all, if they are not too many."""
    if at_most is None or len(disagreement) <= at_most:
        return np.arange(len(disagreement))
    return np.sort(np.argsort(-disagreement, kind="stable")[:at_most])
