"""Microseconds per transition, of this library and of others, side by side.

`python benchmarks/grid.py` measures the whole grid, `--quick` a few cells against the plain loop, and exits with 1 if
one of them is more than 20 % slower, relative to the loop, than `results/quick.json` says.

Every contender is a process of its own, in its own environment, and waits while another is measured. Rounds go through
all of them in turn, so that what else the machine does falls on all alike; the figure is the minimum over rounds, the
spread the ratio of the third quartile to it.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from pathlib import Path

from cells import BESIDE, GRID, QUICK, Cell

HERE = Path(__file__).parent
PEERS = HERE / ".venv-peers" / "bin" / "python"
OURS = ("eager", "compiled")
TOLERANCE = 1.2


class Contender:
    """A process that prepares a cell and runs it when it is told to."""

    def __init__(self, name: str, command: list[str]) -> None:
        self.name = name
        kept = {"MALLOC_TRIM_THRESHOLD_": str(1 << 30), "MALLOC_MMAP_THRESHOLD_": str(1 << 30)}  # the same for everyone
        environment = os.environ | kept | {"PYTHONPATH": str(HERE), "JAX_PLATFORMS": "cpu"}
        pipes: dict = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self._process = subprocess.Popen(command, env=environment, **pipes)

    def ask(self, **request: object) -> dict:
        """Sends a line and waits for the answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError(f"{self.name} stopped on {request}: see its error above.")
        return json.loads(answer)

    def close(self) -> None:
        self._process.communicate()


def contenders(names: list[str]) -> list[Contender]:
    programs = HERE / "contenders"
    commands = {
        "eager": [sys.executable, str(programs / "ours.py"), "eager"],
        "compiled": [sys.executable, str(programs / "ours.py"), "compiled"],
        "plain": [sys.executable, str(programs / "plain.py")],
        "blackjax": [str(PEERS), str(programs / "blackjax_.py")],
        "ebmkit": [str(PEERS), str(programs / "ebmkit_.py")],
    }
    return [Contender(name, commands[name]) for name in names]


def n_steps(cell: Cell) -> int:
    """Transitions in one measurement: some tenths of a second for most."""
    n = {1: 960, 1000: 192, 10_000: 48}[cell.chains]
    return max(16, n // (4 if cell.sampler in ("hmc", "nuts") or cell.energy == "conv" else 1))


def measure(cells: list[Cell], names: list[str], rounds: int) -> list[dict]:
    """For each cell, microseconds per transition of each contender, one figure a round, and what compiling took."""
    table = []
    for cell in cells:
        entrants, n = contenders(names), n_steps(cell)
        row: dict = {"cell": str(cell), **cell._asdict(), "prepared_s": {}, "us": {}}
        known = []
        for contender in entrants:
            answer = contender.ask(cell=cell._asdict(), n_steps=n)
            if answer["known"]:
                known.append(contender)
                row["prepared_s"][contender.name] = answer["seconds"]
        for _ in range(rounds):
            for contender in known:
                row["us"].setdefault(contender.name, []).append(contender.ask(n_steps=n)["seconds"] / n * 1e6)
        for contender in entrants:
            contender.close()
        table.append(row)
        shown = (
            f"{name} {min(us):9.1f} ({statistics.quantiles(us)[2] / min(us):.2f})" for name, us in row["us"].items()
        )
        print(f"{cell!s:34s} {'  '.join(shown)}", flush=True)
    return table


def geometric_mean(ratios: list[float]) -> float:
    return statistics.geometric_mean(ratios) if ratios else float("nan")


def best(row: dict, name: str) -> float:
    return min(row["us"][name])


def report(table: list[dict]) -> str:
    """The table and the ratios, as Markdown."""
    names = list(dict.fromkeys(name for row in table for name in row["us"]))
    lines = ["| cell | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for row in table:
        figures = (f"{best(row, name):.1f}" if name in row["us"] else "-" for name in names)
        lines.append(f"| {row['cell']} | {' | '.join(figures)} |")
    for peer in ("blackjax", "ebmkit", "plain"):
        rows = [row for row in table if peer in row["us"]]
        many = [row for row in rows if row["chains"] >= 1000]
        if not rows:
            continue
        ours = [name for name in OURS if name in names]
        against_compiled = [best(row, peer) / best(row, ours[-1]) for row in many]
        either = [best(row, peer) / min(best(row, name) for name in ours) for row in rows]
        for what, ratios in (
            (f"{ours[-1]}, 1,000 chains or more", against_compiled),
            (f"the better of {' and '.join(ours)}, all cells", either),
        ):
            mean, lowest = geometric_mean(ratios), min(ratios, default=float("nan"))
            lines += ["", f"{peer} / {what}: geometric mean {mean:.2f}, lowest {lowest:.2f}."]
    return "\n".join(lines) + "\n"


def machine() -> dict:
    processor = platform.processor() or platform.machine()
    return {"processor": processor, "cores": os.cpu_count(), "python": platform.python_version()}


def quick() -> int:
    """Compares the ratios to the plain loop with those on record."""
    table = measure(QUICK, ["eager", "plain"], rounds=7)
    ratios = {row["cell"]: best(row, "eager") / best(row, "plain") for row in table}
    record = HERE / "results" / "quick.json"
    known = json.loads(record.read_text()) if record.exists() else {}
    slower = [cell for cell, ratio in ratios.items() if cell in known and ratio > TOLERANCE * known[cell]]
    for cell, ratio in ratios.items():
        print(f"{cell:34s} {ratio:.2f} x the plain loop; on record {known.get(cell, float('nan')):.2f}")
    if not known:
        record.parent.mkdir(exist_ok=True)
        record.write_text(json.dumps(ratios, indent=1) + "\n")
    return 1 if slower else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--contenders", default="eager,compiled,blackjax,ebmkit,plain")
    parser.add_argument("--only", default="", help="cells whose name contains this")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "grid.json")
    arguments = parser.parse_args()
    if arguments.quick:
        return quick()
    cells = [cell for cell in GRID + BESIDE if arguments.only in str(cell)]
    table = measure(cells, arguments.contenders.split(","), arguments.rounds)
    arguments.out.parent.mkdir(exist_ok=True)
    arguments.out.write_text(json.dumps({"machine": machine(), "table": table}, indent=1) + "\n")
    text = report(table)
    arguments.out.with_suffix(".md").write_text(text)
    print("\n" + text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
