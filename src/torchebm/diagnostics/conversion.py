"""Trajectories and diagnostics as ArviZ's object."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from jaxtyping import Float, Shaped
from torch import Tensor

from .entries import Entries, Names, per_draw

__all__ = ["import_arviz", "quiet", "to_arviz"]


def to_arviz(trajectory: Float[Tensor, "chain draw *event"] | np.ndarray,
             diagnostics: Mapping[str, Shaped[Tensor, "..."] | np.ndarray] | None = None, names: Names = None, *,
             dims: Mapping[str, Sequence[str]] | None = None,
             coords: Mapping[str, Sequence[Any]] | None = None) -> Any:  # fmt: skip
    """ArviZ's object with the draws as `posterior` and the diagnostics as `sample_stats`.

    Args:
        trajectory: `[chain, draw, *event]`, as `sample(return_trajectory=True)` returns it; an array will do.
        diagnostics: What `sample(return_diagnostics=True)` returned. What is `[chain, draw]` is kept under its name;
            scalars, and `mean` and `var` over chains, are not about a draw of a chain and are left out.
        names: What the entries of the event are. A string names the whole, `x` by default. For events that are vectors,
            a list names each entry, and a dict splits the vector into variables: by places, which need not be all,
            `{"alpha": 0, "beta": slice(1, 4)}`, or by shapes in order, `{"alpha": (), "beta": (3,)}`.
        dims: Names of the axes of a variable, without chain and draw, `{"beta": ["feature"]}`; else `beta_dim_0`.
        coords: Labels along an axis, `{"feature": ["age", "height", "weight"]}`; else 0, 1, 2.

    Returns:
        `InferenceData` from ArviZ 0.x, an xarray `DataTree` from 1.x: `.posterior["beta"]` is in both.

    Raises:
        ValueError: If trajectory or diagnostics are not chains first, or the names do not fit the event.
        ImportError: If ArviZ is not installed.

    Note: bfloat16 and float16, which NumPy or ArviZ cannot hold, become float32. Draws that are not finite are kept.
    ArviZ's `energy` is the total energy of Hamiltonian samplers; here it is what the sampler recorded, which for the
    samplers of this library is the energy of the model.

    Example:
        >>> import torch
        >>> draws = torch.randn(4, 100, 3, generator=torch.Generator().manual_seed(0))
        >>> data = to_arviz(draws, {"diverging": torch.zeros(4, 100) > 0}, names={"alpha": 0, "beta": slice(1, 3)})
        >>> data.posterior["beta"].shape, int(data.sample_stats["diverging"].sum())
        ((4, 100, 2), 0)
    """
    entries = Entries(trajectory, names)
    stats = per_draw(diagnostics, entries.n_chains, entries.n_draws)
    variables = entries.variables()
    held = stats | variables
    for name, axes in (dims or {}).items():
        if name not in held:
            raise ValueError(f"dims names the axes of {name!r}, but there are {sorted(held)}.")
        wanted = held[name].ndim - 2
        if isinstance(axes, str) or len(axes) != wanted:
            raise ValueError(f"dims[{name!r}] is {axes!r}; expected a list of {wanted} names, without chain and draw.")
    groups = {"posterior": variables, **({"sample_stats": stats} if stats else {})}
    axes = {name: list(names_of_axes) for name, names_of_axes in (dims or {}).items()}
    labels = {name: list(values) for name, values in (coords or {}).items()}
    az = import_arviz()
    with quiet():
        if az.__version__.startswith("0."):  # 1.x warns when it is asked whether it has InferenceData
            return az.from_dict(**groups, dims=axes, coords=labels)
        return az.from_dict(groups, dims=axes, coords=labels)


def import_arviz() -> Any:
    """ArviZ, without its daily notice that 1.x will differ from 0.x: both are supported here."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=r"\s*ArviZ is undergoing", category=FutureWarning)
            import arviz
    except ModuleNotFoundError as error:
        raise ImportError('chain diagnostics are computed by ArviZ: pip install "torchebm[arviz]".') from error
    return arviz


@contextmanager
def quiet() -> Iterator[None]:
    """Without the warning that there are more chains than draws: chains come first here, and many are no mistake."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"More chains \(\d+\) than draws", category=UserWarning)
        warnings.filterwarnings("ignore", message="Found chain dimension to be longer than draw", category=UserWarning)
        yield
