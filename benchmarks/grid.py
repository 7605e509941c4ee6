"""Microseconds per transition, of this library and of others, side by side.

`python benchmarks/grid.py` measures the whole grid, beside the floor, what the machine could do at best, and writes
`results/grid.md` and a plot. `--quick` measures a few cells against the plain loop, and exits with 1 if one of them is
more than 20 % slower, relative to the loop, than `results/quick.json` says.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from cells import BESIDE, GRID, QUICK, Cell
from rig import (
    IMAGES,
    LEAST,
    RESULTS,
    Contender,
    ContenderError,
    best,
    described,
    geometric_mean,
    machine,
    markdown,
    measure,
    save,
    short,
    shown,
    spread,
)

OURS = ("eager", "compiled")
MANY = 1000  # chains
LONGEST = 45.0  # seconds for the rounds of a cell, unless the fewest take longer
TOLERANCE = 1.2

PROGRAMS: dict[str, tuple[tuple[str, ...], bool]] = {
    "eager": (("ours.py", "eager"), False),
    "compiled": (("ours.py", "compiled"), False),
    "blackjax": (("blackjax_.py",), True),
    "ebmkit": (("ebmkit_.py",), True),
    "plain": (("plain.py",), False),
    "floor": (("floor.py",), False),
}


def measure_all(cells: Sequence[Cell], names: Sequence[str], rounds: int, seconds: float) -> tuple[list, list[str]]:
    """A row for each cell, with contenders of its own; and what became of cells where one stopped."""
    table, failures = [], []
    for cell in cells:
        entrants = [Contender(name, *program, theirs=theirs)
                    for name, (program, theirs) in PROGRAMS.items() if name in names]  # fmt: skip
        try:
            table.append(measure(cell, entrants, rounds, seconds, LONGEST))
        except ContenderError as error:
            failures.append(f"{cell}: {error}")
            print(failures[-1], flush=True)
        else:
            print(shown(table[-1]), flush=True)
        finally:
            for contender in entrants:
                contender.close()
    return table, failures


# the report -----------------------------------------------------------------------------------------------------------


def report(table: Sequence[Mapping[str, Any]]) -> str:
    """Figures, ratios and what falls short, as Markdown."""
    inside = {str(cell) for cell in GRID}
    grid = [row for row in table if row["cell"] in inside]
    beside = [row for row in table if row["cell"] not in inside]
    lines = ["Microseconds per transition of all chains: the least of all rounds, and in brackets the third quartile "
             "over it."]  # fmt: skip
    if grid:
        sentences = (
            against(grid, "blackjax", MANY),
            against(grid, "ebmkit"),
            against(grid, "plain"),
            above_floor(grid),
        )
        lines += ["", *figures(grid), "", *(sentence for sentence in sentences if sentence), *shortfalls(grid)]
    if beside:
        lines += ["", "Beside the grid: NUTS, and a convolutional energy on 8 x 8 images.", "", *figures(beside)]
    if calls := fixed_costs(grid):
        lines += ["", calls]
    return "\n".join(lines) + "\n"


def figures(table: Sequence[Mapping[str, Any]]) -> list[str]:
    names = list(dict.fromkeys(name for row in table for name in row["us"]))
    ratios = [peer for peer in ("blackjax", "ebmkit") if peer in names and "compiled" in names]
    header = ["cell", *names, *(f"{peer} / ours" for peer in ratios)]
    rows = []
    for row in table:
        cells = [f"{short(best(row, n))} ({spread(row['us'][n]):.2f})" if n in row["us"] else "-" for n in names]
        cells += [f"{ratio(row, peer):.2f}" if peer in row["us"] else "-" for peer in ratios]
        rows.append([row["cell"], *cells])
    return markdown(header, rows)


def ours(row: Mapping[str, Any]) -> float:
    """The better of eager and compiled."""
    return min(best(row, name) for name in OURS if name in row["us"])


def ratio(row: Mapping[str, Any], peer: str) -> float:
    """How many times faster ours is: compiled against BlackJAX, which compiles, the better of both otherwise."""
    compiled = peer == "blackjax" and "compiled" in row["us"]
    return best(row, peer) / (best(row, "compiled") if compiled else ours(row))


def against(table: Sequence[Mapping[str, Any]], peer: str, chains: int = 1) -> str:
    """A sentence on the ratios to a peer."""
    rows = [row for row in table if peer in row["us"] and row["chains"] >= chains]
    if not rows:
        return ""
    ratios = {row["cell"]: ratio(row, peer) for row in rows}
    lowest = min(ratios, key=lambda cell: ratios[cell])
    which = "compiled" if peer == "blackjax" else "the better of eager and compiled"
    cells = f"cells with {chains:,} chains or more" if chains > 1 else "all cells"
    return (f"- {peer} / {which}, {cells}: geometric mean {geometric_mean(ratios.values()):.2f}, lowest "
            f"{ratios[lowest]:.2f} ({lowest}).")  # fmt: skip


def above_floor(table: Sequence[Mapping[str, Any]]) -> str:
    """A sentence on how far Langevin is from what the machine could do at best."""
    rows = [row for row in table if "floor" in row["us"] and row["sampler"] == "langevin" and row["chains"] >= MANY]
    times = {row["cell"]: ours(row) / best(row, "floor") for row in rows}
    if not times:
        return ""
    highest = max(times, key=lambda cell: times[cell])
    return (f"- Langevin with {MANY:,} chains or more / floor: geometric mean {geometric_mean(times.values()):.2f}, "
            f"highest {times[highest]:.2f} ({highest}).")  # fmt: skip


def shortfalls(table: Sequence[Mapping[str, Any]]) -> list[str]:
    """Cell by cell, what is slower than it was meant to be."""
    said = []
    for row in table:
        us, limits = row["us"], []
        if "blackjax" in us and row["chains"] >= MANY:
            near = "floor" in us and best(row, "compiled") <= 1.3 * best(row, "floor")
            if ratio(row, "blackjax") < 1 and not near:
                limits.append(f"{ratio(row, 'blackjax'):.2f} of BlackJAX")
        elif "blackjax" in us and ratio(row, "blackjax") < (1 / 10 if row["sampler"] == "hmc" else 1 / 4):
            limits.append(f"{ratio(row, 'blackjax'):.3f} of BlackJAX, for a single chain")
        if "ebmkit" in us and ratio(row, "ebmkit") < 1:
            limits.append(f"{ratio(row, 'ebmkit'):.2f} of ebmkit")
        if "floor" in us and row["sampler"] == "langevin" and row["chains"] >= MANY:
            times = ours(row) / best(row, "floor")
            if times > 2:
                limits.append(f"{times:.1f} x the floor")
        if limits:
            said.append(f"    - {row['cell']}: {'; '.join(limits)}.")
    aims = ("speed of BlackJAX with 1,000 chains or more (or 1.3 x the floor), a quarter of it with one (a tenth for "
            "HMC); speed of ebmkit; Langevin with 1,000 chains or more within 2 x the floor")  # fmt: skip
    return [f"- Short of what was aimed at ({aims}): {'none.' if not said else ''}".rstrip(), *said]


def fixed_costs(table: Sequence[Mapping[str, Any]]) -> str:
    """A sentence on what a call costs beside its transitions, from the cells with one chain."""
    extra: dict[str, float] = {}
    for row in table:
        for name in row["us"] if row["chains"] == 1 and row["sampler"] == "langevin" else ():
            alone = row["call_us"][name] - LEAST * best(row, name)
            extra[name] = min(extra.get(name, float("inf")), max(alone, 0.0))
    parts = ", ".join(f"{name} {short(us)}" for name, us in extra.items() if name != "floor")
    return (
        f"What one call costs beside its transitions, in microseconds (Langevin, one chain): {parts}." if parts else ""
    )


def plot(table: Sequence[Mapping[str, Any]], path: Any) -> None:
    """Ratios to BlackJAX and ebmkit, a bar for each cell of the grid."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    inside = {str(cell) for cell in GRID}
    grid = [row for row in table if row["cell"] in inside]
    figure = Figure(figsize=(9, 0.24 * len(grid) + 1.2), layout="constrained")
    axes = figure.subplots()
    for k, (peer, colour) in enumerate((("blackjax", "tab:blue"), ("ebmkit", "tab:orange"))):
        rows = [(i, ratio(row, peer)) for i, row in enumerate(grid) if peer in row["us"]]
        axes.barh(
            [i + 0.4 * k - 0.2 for i, _ in rows], [r - 1 for _, r in rows], 0.38, left=1, color=colour, label=peer
        )
    axes.set_yticks(range(len(grid)), [row["cell"] for row in grid], fontsize=7)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_xlabel("time of the other / ours (further right: ours is faster)")
    axes.legend(loc="lower right")
    figure.savefig(path, dpi=110)


# the quick one --------------------------------------------------------------------------------------------------------


def slower(ratios: Mapping[str, float], known: Mapping[str, float], tolerance: float = TOLERANCE) -> list[str]:
    """Cells whose ratio to the plain loop is worse than on record by more than the tolerance."""
    return [cell for cell, now in ratios.items() if cell in known and now > tolerance * known[cell]]


def quick() -> int:
    """Compares the ratios to the plain loop with those on record."""
    table, failures = measure_all(QUICK, ["eager", "plain"], rounds=7, seconds=0.2)
    ratios = {row["cell"]: best(row, "eager") / best(row, "plain") for row in table}
    record = RESULTS / "quick.json"
    known = json.loads(record.read_text()) if record.exists() else {}
    for cell, now in ratios.items():
        print(f"{cell:34s} {now:.2f} x the plain loop; on record {known.get(cell, float('nan')):.2f}")
    if not known:
        record.parent.mkdir(exist_ok=True)
        record.write_text(json.dumps(ratios, indent=1) + "\n")
    worse = slower(ratios, known)
    if worse:
        print(f"more than {TOLERANCE - 1:.0%} slower than on record: {', '.join(worse)}")
    return 1 if worse or failures else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--floor", action=argparse.BooleanOptionalAction, default=True,
                        help="beside what the machine could do at best")  # fmt: skip
    parser.add_argument("--rounds", type=int, default=30, help="at most: five where they take long")
    parser.add_argument("--seconds", type=float, default=0.1, help="about how long one measurement takes")
    parser.add_argument("--contenders", default="eager,compiled,blackjax,ebmkit,plain")
    parser.add_argument("--only", default="", help="cells whose name contains this; the table on record stays as it is")
    arguments = parser.parse_args()
    if arguments.quick:
        return quick()
    here = machine()
    names = arguments.contenders.split(",") + (["floor"] if arguments.floor else [])
    if unknown := set(names) - set(PROGRAMS):
        parser.error(f"there is no contender {', '.join(sorted(unknown))}; there are {', '.join(PROGRAMS)}")
    cells = [cell for cell in GRID + BESIDE if arguments.only in str(cell)]
    table, failures = measure_all(cells, names, arguments.rounds, arguments.seconds)
    text = report(table) + "".join(f"- Not measured: {failure}\n" for failure in failures)
    if arguments.only:
        print("\n" + text)
    else:
        save("grid", {"machine": here, "table": table}, described(here) + " " + text)
        plot(table, IMAGES / "benchmarks.png")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
