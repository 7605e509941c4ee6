"""Pictures of a run, each drawn by `torchebm.viz` and embedded in the page as PNG."""

import base64
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from jaxtyping import Float
from torch import Tensor

from torchebm.core import BaseModel
from torchebm.viz import (
    energy_1d,
    energy_histograms,
    energy_landscape,
    marginals,
    sample_grid,
    scatter,
    training_curves,
)
from torchebm.viz.canvas import robust_interval
from torchebm.viz.training import grouped, numeric_keys

from .markup import Markup, tag

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["curves", "histograms_of_energies", "image_grids", "marginal_panels", "pictures_in_one", "pictures_in_two"]

DPI = 150
MOST_DOTS = 2000  # a scatter of more is a blot
MOST_COLUMNS = 48  # a page of more is read by nobody

TITLES = {
    "energy_data": "Energies of data and of negatives",
    "energy_gap": "Energy of negatives minus energy of data",
    "gradient_norm": "Norm of the gradient",
    "acceptance_rate": "Acceptance rate of the sampler",
    "displacement": "Distance that chains move in an update",
    "gap_fluctuation": "Fluctuation of the gap, over its sampling error",
    "learning_rate": "Learning rate",
    "energy_gap_mean": "Running mean of the gap",
    "energy_gap_error": "Sampling error of the gap",
    "gap_ratio": "Running mean of the gap, over its error",
    "energy_noise": "Energy of uniform noise",
    "chain_gradient_norm": "Norm of the energy's gradient at the negatives",
    "buffer_age": "Updates since chains began",
    "saturation": "Share of the negatives at the edge of the box",
    "step_size": "Step size of the sampler",
}
FIRST = list(TITLES)[:7]  # what is seen at once

Table = Float[Tensor, "n d"]


def image_grids(samples: Tensor, real: Tensor, bounds: tuple[float, float], n: int = 64) -> Markup:
    """Samples beside real images, black and white at the same values."""
    n = min(n, len(samples), len(real))
    pictures = []
    for what, images in (("samples of the model", samples), ("held-out data", real)):
        grid = picture(
            lambda ax, images=images: sample_grid(images[:n], value_range=bounds, ax=ax),
            (5.0, 5.0 * images.shape[-2] / images.shape[-1]),
            alt=f"Grid of {n} images: {what}.",
            caption=[tag("strong", what.capitalize()), f": {n} images, not chosen"],
        )
        pictures.append(grid)
    return tag("div", *pictures, class_="gallery large")


def marginal_panels(data: Table, samples: Table, columns: Sequence[str]) -> Markup:
    """A histogram for each column; its name is in the caption, where any character can be shown."""
    bins = int(min(max(2 * len(data) ** (1 / 3), 12), 40))
    panels = [
        drawn(
            lambda figure, i=i: marginals(data[:, [i]], samples[:, [i]], [""], bins=bins, figure=figure),
            (3.2, 2.2),
            alt=f"Histograms of {name}, of data and samples on top of each other.",
            caption=[tag("strong", name)],
        )
        for i, name in enumerate(columns[:MOST_COLUMNS])
    ]
    return tag("div", *panels, class_="gallery")


def pictures_in_two(model: BaseModel, data: Table, samples: Table, columns: Sequence[str]) -> Markup:
    """Points in the plane, and the energy that was learned there."""
    x, y = (robust_interval(column, tail=0.1, margin=0.1) for column in data.T.cpu().numpy())
    axes = [f"{'horizontal' if i == 0 else 'vertical'}: {name}" for i, name in enumerate(columns)]
    points = picture(
        lambda ax: scatter(data[:MOST_DOTS], samples[:MOST_DOTS], bounds=(x, y), ax=ax),
        (5.6, 4.8),
        alt="Data and samples as points in the plane, on top of each other.",
        caption=[tag("strong", "Data and samples"), "; ", ", ".join(axes)],
    )
    landscape = picture(
        lambda ax: energy_landscape(model, (x, y), samples=samples[: MOST_DOTS // 4], ax=ax),
        (5.6, 4.8),
        alt="Map of the learned energy over the plane, with samples as points.",
        caption=[tag("strong", "The learned energy"), ": dark is low, and probable; dots are samples"],
    )
    return tag("div", points, landscape, class_="gallery large")


def pictures_in_one(model: BaseModel, data: Table, samples: Table) -> Markup:
    """The learned energy and its density over the line."""
    window = robust_interval(data.cpu().numpy(), tail=0.0, margin=0.2)
    return picture(
        lambda ax: energy_1d(model, window, data=data, samples=samples, ax=ax),
        (7.0, 4.0),
        alt="Curve of the learned energy and its density, over histograms of data and samples.",
        caption=[tag("strong", "The learned energy"), " and the density it stands for, of data with their noise"],
        class_="single",
    )


def histograms_of_energies(energies: Mapping[str, Float[Tensor, " n"]]) -> Markup:
    """Energies of data, samples and noise in shared bins."""
    bins = int(min(max(3 * min(map(len, energies.values())) ** (1 / 3), 15), 40))
    return picture(
        lambda ax: energy_histograms(energies, bins=bins, ax=ax),
        (7.4, 3.6),
        alt="Histograms of the energies of data, samples and noise; the table below gives their quantiles.",
        caption=[],
        class_="single",
    )


def curves(metrics: Sequence[Mapping[str, Any]]) -> Iterator[Markup]:
    """What training recorded, a picture for each quantity: the telling ones first, the others to be opened."""
    groups = grouped([key for key in numeric_keys(metrics) if key != "seconds"])
    yield tag("div", *(curve(metrics, keys) for keys in groups if keys[0] in FIRST), class_="gallery")
    others = [curve(metrics, keys) for keys in groups if keys[0] not in FIRST]
    if others:
        summary = tag("summary", f"The other figures that were recorded: {len(others)}")
        yield tag("details", summary, tag("div", *others, class_="gallery"))


def curve(metrics: Sequence[Mapping[str, Any]], keys: list[str]) -> Markup:
    """One panel, of quantities that belong together."""
    what = TITLES.get(keys[0], keys[0].replace("_", " ").capitalize())

    def draw(figure: "Figure") -> None:
        (ax,) = training_curves(metrics, keys=keys, figure=figure)
        ax.set_ylabel("")  # the caption says it

    return drawn(draw, (3.2, 2.2), alt=f"{what}, against the training step.", caption=[tag("strong", what)])


def picture(draw: Callable[["Axes"], object], size: tuple[float, float], **words: Any) -> Markup:
    """What `draw` puts on axes, as a figure of the page."""
    return drawn(lambda figure: draw(figure.add_subplot()), size, **words)


def drawn(draw: Callable[["Figure"], object], size: tuple[float, float], *, alt: str, caption: Sequence[object],
          **attributes: object) -> Markup:  # fmt: skip
    """What `draw` puts on a figure; matplotlib's, without pyplot, so that no window and no state is involved."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    draw(figure)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=DPI, metadata={"Software": None})
    source = "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
    width, height = (round(DPI * side) for side in size)
    image = tag("img", src=source, alt=alt, width=width, height=height)
    return tag("figure", image, *([tag("figcaption", *caption)] if caption else []), **attributes)
