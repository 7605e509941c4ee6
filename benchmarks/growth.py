"""How time grows with steps, chains and dimensions, and what memory a large run takes.

Time is that of Langevin and Hamiltonian Monte Carlo on the double well, eager and compiled; the least of all rounds. It
should be no worse than linear: flat while starting operations is what takes the time, and of slope 1 after that.
"""

import argparse
import json
import math
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from cells import Cell
from rig import HERE, IMAGES, Contender, described, machine, markdown, save, short

AXES: dict[str, list[int]] = {
    "steps": [64, 256, 1024, 4096, 16384],
    "chains": [10, 100, 1000, 10_000, 100_000],
    "dimensions": [1, 10, 100, 500, 2000],
}
SAMPLERS = ("langevin", "hmc")
MODES = ("eager", "compiled")
CHAINS, DIM, STEPS = 1000, 10, 64  # where they are not the axis
MEMORY = (100_000, 100, 1000)  # chains, dimensions, steps
MOST_MEMORY = 300e6


def cell_at(sampler: str, axis: str, size: int) -> tuple[Cell, int]:
    """The cell and the number of steps at a point of an axis."""
    chains, dim = size if axis == "chains" else CHAINS, size if axis == "dimensions" else DIM
    return Cell(sampler, "double_well", chains, dim), size if axis == "steps" else STEPS


def measured(axes: Mapping[str, Sequence[int]], rounds: int) -> list[dict[str, Any]]:
    """For each sampler, mode and axis, seconds at each size."""
    table = []
    entrants = {mode: Contender(mode, "ours.py", mode) for mode in MODES}
    try:
        for sampler in SAMPLERS:
            for axis, sizes in axes.items():
                found: dict[str, list[float]] = {mode: [] for mode in MODES}
                for size in sizes:
                    cell, n_steps = cell_at(sampler, axis, size)
                    for contender in entrants.values():
                        contender.ask(cell=cell._asdict(), n_steps=STEPS)
                    runs = [[entrants[mode].ask(n_steps=n_steps)["seconds"] for mode in MODES] for _ in range(rounds)]
                    for mode, column in zip(MODES, zip(*runs, strict=True), strict=True):
                        found[mode].append(min(column))
                for mode, seconds in found.items():
                    table.append({"sampler": sampler, "mode": mode, "axis": axis, "sizes": list(sizes),
                                  "seconds": seconds, "slope": slope(sizes, seconds)})  # fmt: skip
                    print(f"{sampler} {mode} by {axis}: {', '.join(map(short, seconds))} s", flush=True)
    finally:
        for contender in entrants.values():
            contender.close()
    return table


def slope(sizes: Sequence[float], seconds: Sequence[float], last: int = 3) -> float:
    """Of the logarithm of time against that of size, over the largest sizes."""
    x, y = [math.log(s) for s in sizes[-last:]], [math.log(s) for s in seconds[-last:]]
    return statistics.linear_regression(x, y).slope


def memory(chains: int, dim: int, n_steps: int) -> dict[str, dict[str, int]]:
    """Of a run in a process of its own, for each mode."""
    found = {}
    for mode in MODES:
        command = [sys.executable, str(HERE / "contenders" / "memory.py"), mode, *map(str, (chains, dim, n_steps))]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        found[mode] = json.loads(done.stdout)
        print(f"memory, {mode}: {found[mode]['above_import'] / 1e6:.0f} MB", flush=True)
    return found


def report(table: Sequence[Mapping[str, Any]], held: Mapping[str, Mapping[str, int]]) -> str:
    """Slopes and memory, as Markdown."""
    kinds = list(dict.fromkeys((row["sampler"], row["mode"]) for row in table))
    axes = list(dict.fromkeys(row["axis"] for row in table))
    slopes = {(row["sampler"], row["mode"], row["axis"]): row["slope"] for row in table}
    rows = [[f"{sampler}, {mode}", *(f"{slopes[sampler, mode, axis]:.2f}" for axis in axes)] for sampler, mode in kinds]
    chains, dim, n_steps = MEMORY
    megabytes = 4 * chains * dim / 1e6
    size = f"{n_steps:,} Langevin steps of {chains:,} chains in {dim} dimensions, {megabytes:.0f} MB of numbers"
    found = "; ".join(said(mode, figures) for mode, figures in held.items())
    lines = ["Slope of the logarithm of time against that of size, over the three largest sizes: 1 is linear.", ""]
    lines += [*markdown(["", *axes], rows), "", f"Peak of the resident memory of {size}, in a fresh process: {found}."]
    return "\n".join(lines) + "\n"


def said(mode: str, figures: Mapping[str, int]) -> str:
    above, loaded = figures["above_import"] / 1e6, figures["above_loaded"] / 1e6
    compiler = f", {loaded:.0f} MB of it for the run and the rest for the compiler" if mode == "compiled" else ""
    beyond = "" if above * 1e6 < MOST_MEMORY else f" (more than the {MOST_MEMORY / 1e6:.0f} MB aimed at)"
    return f"{mode} {above:.0f} MB above the import{beyond}{compiler}"


def plot(table: Sequence[Mapping[str, Any]], path: Any) -> None:
    """An axis a panel, with a line of slope 1."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    axes_names = list(dict.fromkeys(row["axis"] for row in table))
    figure = Figure(figsize=(4 * len(axes_names), 3.4), layout="constrained")
    for axes, name in zip(figure.subplots(1, len(axes_names), squeeze=False)[0], axes_names, strict=True):
        rows = [row for row in table if row["axis"] == name]
        for row in rows:
            style = "-o" if row["mode"] == "compiled" else "--o"
            colour = "tab:blue" if row["sampler"] == "langevin" else "tab:orange"
            axes.loglog(row["sizes"], row["seconds"], style, color=colour, markersize=3,
                        label=f"{row['sampler']}, {row['mode']}")  # fmt: skip
        sizes, top = rows[0]["sizes"], max(max(row["seconds"]) for row in rows)
        line = [1.6 * top * size / sizes[-1] for size in sizes]
        axes.loglog(sizes, line, color="grey", linewidth=0.8, label="slope 1")
        axes.set_xlabel(name)
    figure.axes[0].set_ylabel("seconds")
    figure.axes[0].legend(fontsize=7)
    figure.savefig(path, dpi=110)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--try", action="store_true", dest="attempt", help="small sizes; what is on record stays")
    arguments = parser.parse_args()
    here = machine()
    axes = {name: sizes[:3] for name, sizes in AXES.items()} if arguments.attempt else AXES
    table = measured(axes, arguments.rounds)
    held = memory(*((1000, 10, 20) if arguments.attempt else MEMORY))
    if arguments.attempt:
        print("\n" + report(table, held))
        return 0
    save("growth", {"machine": here, "table": table, "memory": held}, described(here) + " " + report(table, held))
    plot(table, IMAGES / "growth.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
