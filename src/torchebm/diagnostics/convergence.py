"""Figures of convergence for every entry of a trajectory, and what to do when something is off."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Shaped
from torch import Tensor

from torchebm.core.checks import integer

from .conversion import import_arviz, quiet
from .entries import Entries, Names, Screening, diverging_draws, listed, per_draw, screen, worst

__all__ = ["Summary", "summary"]

MAX_R_HAT = 1.01  # both from Vehtari et al. (2021)
MIN_ESS = 400
MIN_ACCEPTANCE = 0.1  # below any optimum that is known: 0.234 for random walks is the lowest
MIN_LIMIT, MAX_AT_LIMIT = 8, 0.01  # of tree depths: what looks like a limit, and how often trees may reach it
MIN_DRAWS = 4  # R-hat splits chains into halves, and ArviZ wants two draws in each
TAIL = (0.05, 0.95)  # quantiles whose ESS, the smaller one, is the tail ESS; the default differs between releases
COLUMNS = ("mean", "sd", "mcse_mean", "ess_bulk", "ess_tail", "r_hat")
MAX_ROWS = 24  # that are printed; the table has them all


@dataclass(frozen=True, eq=False, repr=False)
class Summary:
    """What `summary` found; printing it shows a table and the advice.

    Attributes hold a figure for each entry by label, `s.r_hat["x[2]"]`; `s["x[2]"]` is the row of one entry; `as_dict`
    gives all of it as plain numbers, `table` the rows as a pandas frame.
    """

    n_chains: int
    n_draws: int
    """Draws of each chain."""
    n_entries: int
    """Entries of the trajectory; the figures are of all of them, or of those whose chains disagree most."""
    mean: Mapping[str, float]
    sd: Mapping[str, float]
    mcse_mean: Mapping[str, float]
    """Standard error of the mean, from the effective sample size."""
    ess_bulk: Mapping[str, float]
    ess_tail: Mapping[str, float]
    """The smaller one of the effective sample sizes of the 5 % and 95 % quantiles."""
    r_hat: Mapping[str, float]
    """The rank-normalised, split one."""
    divergences: tuple[int, ...] | None
    """Of each chain, how many draws diverged; `None` if diagnostics do not tell."""
    advice: tuple[str, ...]
    """One line for each thing that is off; empty if nothing was found."""

    @property
    def n_divergences(self) -> int | None:
        """Diverging draws of all chains together."""
        return None if self.divergences is None else sum(self.divergences)

    @property
    def table(self) -> Any:
        """The figures as a pandas frame, one row for each entry."""
        try:
            import pandas
        except ModuleNotFoundError as error:
            raise ImportError('the table is a pandas frame: pip install "torchebm[arviz]".') from error
        return pandas.DataFrame({column: getattr(self, column) for column in COLUMNS}, index=list(self.mean))

    def as_dict(self) -> dict[str, Any]:
        """Every field, in plain dicts, lists and numbers."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    def __getitem__(self, label: str) -> dict[str, float]:
        """The figures of one entry."""
        if label not in self.mean:
            raise KeyError(f"there is no row {label!r}; there are {listed(list(self.mean))}.")
        return {column: getattr(self, column)[label] for column in COLUMNS}

    def __repr__(self) -> str:
        labels = list(self.mean)
        shown = [labels[k] for k in worst(np.array([badness(self[label]) for label in labels]), MAX_ROWS)]
        rows = [("", *COLUMNS), *((label, *written(self[label])) for label in shown)]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [f"{counted(self.n_chains, 'chain')} of {self.n_draws} draws"]
        if len(labels) < self.n_entries:
            lines[0] += f"; {self.n_entries} entries, of which these are the {len(labels)} whose chains disagree most"
        lines += ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() for row in rows]
        if len(shown) < len(labels):
            lines.append(f"... and {len(labels) - len(shown)} better rows in .table")
        lines.append(f"divergences: {'not recorded' if self.n_divergences is None else self.n_divergences}")
        return "\n".join(lines + [f"! {line}" for line in self.advice])


def summary(trajectory: Float[Tensor, "chain draw *event"] | np.ndarray,
            diagnostics: Mapping[str, Shaped[Tensor, "..."] | np.ndarray] | None = None, names: Names = None, *,
            max_entries: int | None = 100) -> Summary:  # fmt: skip
    r"""Mean, sd, its standard error, effective sample sizes and R-hat of every entry, and advice where one is off.

    $\hat R = \sqrt{\widehat{\mathrm{var}}^+ / W}$, with W the variance within half chains and
    $\widehat{\mathrm{var}}^+$ that of all draws together, after ranks have been made normal scores. ArviZ computes it,
    the standard error and the effective sample sizes.

    Args:
        trajectory: `[chain, draw, *event]`, as `sample(return_trajectory=True)` returns it; an array will do.
        diagnostics: What `sample(return_diagnostics=True)` returned, for divergences and acceptance.
        names: Names of entries or variables, as in `to_arviz`.
        max_entries: Of a larger event, as of images, only this many entries are looked at: those whose half chains
            disagree most, by variance between over variance within, which is cheap. `None` looks at all.

    Raises:
        ValueError: If draws are not finite: nothing is left out to hide it. If there are fewer than 4 draws a chain.
        ImportError: If ArviZ is not installed.

    Note: R-hat compares the chains that there are. Chains that all started in one of two modes agree, and R-hat stays
    near 1: spread the starting points. An entry that is the same in every draw of every chain has no R-hat and no
    effective sample size, and shows nan. Costs 12 ms an entry for 64 chains of 500 draws.

    References: Vehtari et al. (2021), https://doi.org/10.1214/20-BA1221

    Example:
        >>> import torch
        >>> draws = torch.randn(4, 500, 2, generator=torch.Generator().manual_seed(0))
        >>> s = summary(draws, names=["alpha", "beta"])
        >>> s.r_hat["beta"] < 1.01, s.ess_bulk["beta"] > 1000, s.advice
        (True, True, ())
    """
    if max_entries is not None:
        max_entries = integer("max_entries", max_entries, at_least=1)
    entries = Entries(trajectory, names)
    stats = per_draw(diagnostics, entries.n_chains, entries.n_draws)
    if entries.n_draws < MIN_DRAWS:
        raise ValueError(
            f"the chains have {counted(entries.n_draws, 'draw')}; R-hat and the effective sample size need at least "
            f"{MIN_DRAWS} in each, and mean something from a hundred on."
        )
    seen = screen(entries)
    refuse_bad(seen, entries.n_draws)
    chosen = worst(seen.disagreement, max_entries)
    labels = [entries.labels[k] for k in chosen]
    figures = measured(entries.values(chosen), seen.constant[chosen], seen.frozen[chosen])
    columns = {name: dict(zip(labels, values.tolist(), strict=True)) for name, values in figures.items()}
    diverging = diverging_draws(stats)
    divergences = None if diverging is None else tuple(diverging.sum(1).tolist())
    advice = advise(entries, seen, columns, divergences, stats)
    return Summary(
        n_chains=entries.n_chains,
        n_draws=entries.n_draws,
        n_entries=len(entries),
        divergences=divergences,
        advice=tuple(advice),
        **columns,
    )


def refuse_bad(seen: Screening, n_draws: int) -> None:
    bad = seen.n_bad > 0
    if not bad.any():
        return
    raise ValueError(
        f"{bad.sum()} of {len(bad)} chains hold draws that are not finite, {seen.n_bad.sum()} of {len(bad) * n_draws} "
        f"draws, the first at draw {seen.first_bad[bad].min()}: they have no mean and no R-hat. Find out why first; "
        "then leave those chains out in sight of the reader, keep = trajectory.flatten(1).isfinite().all(1), and "
        "trajectory[keep] with diagnostics[name][keep]."
    )


def measured(x: np.ndarray, constant: np.ndarray, frozen: np.ndarray) -> dict[str, np.ndarray]:
    """Each column for each entry; `x` is `[chain, draw, entry]`, all finite."""
    az = import_arviz()
    mean, sd = x.mean((0, 1)), x.std((0, 1), ddof=1)
    alive = np.flatnonzero(~constant & (sd > 0))
    nothing = np.full(len(mean), np.nan)
    columns = {"mean": mean, "sd": sd, **{name: nothing.copy() for name in COLUMNS[2:]}}
    if len(alive):
        # ArviZ takes what varies by less than 1e-15 for a constant; standardised entries have no such scale.
        z = (x[..., alive] - mean[alive]) / sd[alive]
        # A folded or half chain of few values may be constant: ArviZ divides by its variance, and the result says so.
        with quiet(), np.errstate(divide="ignore", invalid="ignore"):
            data = az.convert_to_dataset({"z": z})
            columns["mcse_mean"][alive] = az.mcse(data, method="mean")["z"].values * sd[alive]
            columns["ess_bulk"][alive] = az.ess(data, method="bulk")["z"].values
            columns["ess_tail"][alive] = az.ess(data, method="tail", prob=TAIL)["z"].values
            if len(x) > 1:
                columns["r_hat"][alive] = az.rhat(data)["z"].values
                columns["r_hat"][frozen & ~constant] = np.inf  # its limit, where rounding would decide
    return columns


# advice ---------------------------------------------------------------------------------------------------------------


def advise(entries: Entries, seen: Screening, columns: Mapping[str, Mapping[str, float]],
           divergences: Sequence[int] | None, stats: Mapping[str, np.ndarray]) -> list[str]:  # fmt: skip
    """One line for each thing that is off, the gravest first."""
    n_chains, lines, acceptance = entries.n_chains, [], stats.get("acceptance_rate")
    n_diverged, n_stuck = sum(n > 0 for n in divergences or ()), int((~seen.moved).sum())
    diverged, cure = f"{n_diverged} of {counted(n_chains, 'chain')} diverged", cure_of_divergences(stats)
    if n_stuck == n_chains:
        if n_diverged:
            return [f"{diverged} and none ever moved: {cure}, and start where the energy is finite"]
        return ["no chain ever moved: lower step_size, and start where the energy is finite"]
    if n_diverged:  # chains that stand still do so for the same reason, and one cure is enough
        lines.append(f"{diverged}: {cure}" + (f" ({n_stuck} never moved)" if n_stuck else ""))
    elif n_stuck:
        lines.append(f"{n_stuck} of {n_chains} chains never moved: lower step_size, or start them elsewhere")
    if acceptance is not None and acceptance.mean() < MIN_ACCEPTANCE:
        lines.append(f"acceptance rate {acceptance.mean():.2g}: "
                     + (cure if n_diverged else "lower step_size or the scale of proposals"))  # fmt: skip
    lines += full_trees(stats)
    if seen.constant.any():
        still = [entries.labels[k] for k in np.flatnonzero(seen.constant)]
        lines.append(f"{listed(still, 1)} never changed in any chain: check that the energy depends on it")
    if n_chains == 1:
        lines.append("one chain: whether chains agree cannot be told from one, run four or more")
    elif found := offending(columns["r_hat"], lambda r_hat: r_hat > MAX_R_HAT):
        value = columns["r_hat"][found[0]]
        lines.append(f"R-hat {short(value)} on {found[0]}{others(found)}: run longer or temper")
    for kind in ("bulk", "tail"):
        ess = columns[f"ess_{kind}"]
        if found := offending(ess, lambda n: n < MIN_ESS, lowest=True):
            lines.append(f"{kind} ESS {ess[found[0]]:.0f} on {found[0]}{others(found)}, of {MIN_ESS} that figures "
                         "need to be stable: run longer")  # fmt: skip
            break  # the tail of what has no bulk is no news
    return lines


def cure_of_divergences(stats: Mapping[str, np.ndarray]) -> str:
    """Smaller steps, in the words of the sampler that the diagnostics are of."""
    if "acceptance_rate" not in stats or "swap_rate" in stats:  # it cannot reject, or is at several temperatures
        return "lower step_size or reparameterise"
    if "n_steps" not in stats:  # single steps diverge only where the energy is none
        return "mend the energy where it is NaN or minus infinity, or take smaller steps"
    return "raise target_acceptance or reparameterise"


def full_trees(stats: Mapping[str, np.ndarray]) -> list[str]:
    """A line if many trees grew as large as they may.

    The limit is the largest depth if every tree of that depth stopped when it was full: without a limit some would have
    gone on, to turn back within the next doubling.
    """
    depth, n_steps = stats.get("tree_depth"), stats.get("n_steps")
    if depth is None or n_steps is None or not depth.size or (limit := int(depth.max())) < MIN_LIMIT:
        return []
    full = depth == limit
    if full.mean() <= MAX_AT_LIMIT or (n_steps[full] != 2**limit - 1).any():
        return []
    return [f"{full.mean():.0%} of transitions".replace("%", " %") + f" reached the largest tree depth, {limit}: raise "
            "max_tree_depth or adapt a dense mass"]  # fmt: skip


def offending(column: Mapping[str, float], off: Any, *, lowest: bool = False) -> list[str]:
    """Labels whose figure is off, the worst first."""
    return sorted((label for label, value in column.items() if off(value)),
                  key=lambda label: column[label] if lowest else -column[label])  # fmt: skip


def others(found: Sequence[str]) -> str:
    return f" and off on {len(found) - 1} more" if len(found) > 1 else ""


def counted(n: int, thing: str) -> str:
    return f"{n} {thing}" + ("s" if n != 1 else "")


# writing --------------------------------------------------------------------------------------------------------------


def badness(row: Mapping[str, float]) -> float:
    """What is off comes first: a large R-hat, or none at all; between equals, a small effective sample."""
    r_hat = row["r_hat"]
    return (math.inf if math.isnan(r_hat) else r_hat) - 1e-9 * (0 if math.isnan(row["ess_bulk"]) else row["ess_bulk"])


def short(r_hat: float) -> str:
    """Two decimals, or three for what would look like 1.01."""
    return f"{r_hat:.3g}" if r_hat >= 100 else f"{r_hat:.2f}" if r_hat >= 1.015 else f"{r_hat:.3f}"


def written(row: Mapping[str, float]) -> tuple[str, ...]:
    """The cells of a row: the mean with the two digits that its standard error leaves it."""
    error = row["mcse_mean"]
    decimals = 1 - math.floor(math.log10(error)) if math.isfinite(error) and error > 0 else -1
    plain = 0 <= decimals <= 6 and max(abs(row["mean"]), row["sd"]) < 1e7
    digits = f".{decimals}f" if plain else ".4g"
    r_hat = f"{row['r_hat']:.3f}" if row["r_hat"] < 100 else f"{row['r_hat']:.3g}"
    return (*(f"{row[name]:{digits}}" for name in COLUMNS[:3]), f"{row['ess_bulk']:.0f}", f"{row['ess_tail']:.0f}",
            r_hat)  # fmt: skip
