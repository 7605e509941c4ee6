"""What compiling takes: the first run of a process, and that of another with what PyTorch kept on disk.

For each cell a fresh folder for compiled code, and two processes one after the other. The figure is the time by which
the first run is longer than the second: loading the compiler, tracing, and writing or finding the code. PyTorch's
headers, which it compiles once on a machine, are compiled in a process before all others, whose figure is reported by
itself.
"""

import argparse
import sys
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

from cells import BESIDE, GRID, Cell
from rig import LEAST, Contender, described, machine, markdown, save, short

FIRST, AGAIN = 15.0, 6.0  # seconds that are aimed at
NETWORK = Cell("langevin", "mlp", 1000, 2)  # with which headers are compiled


def seconds(cell: Cell, cache: str, kept: str) -> float:
    """In a new process, which keeps compiled code in the one folder and headers in the other."""
    contender = Contender("compiled", "ours.py", "compiled", TORCHINDUCTOR_CACHE_DIR=cache, TMPDIR=kept)
    try:
        first = contender.ask(cell=cell._asdict(), n_steps=LEAST)["seconds"]
        return first - min(contender.ask(n_steps=LEAST)["seconds"] for _ in range(2))
    finally:
        contender.close()


def report(table: Sequence[Mapping[str, Any]], headers: float) -> str:
    """The table, and what is beyond the aims, as Markdown."""
    rows = [[row["cell"], short(row["first"]), short(row["again"])] for row in table]
    rows.append(["most", *(f"**{short(max(row[name] for row in table))}**" for name in ("first", "again"))])
    slow = [row["cell"] for row in table if row["first"] > FIRST or row["again"] > AGAIN]
    said = (
        f"beyond {FIRST:g} or {AGAIN:g} s: {', '.join(slow)}" if slow else f"none is beyond {FIRST:g} and {AGAIN:g} s"
    )
    lines = [
        f"Seconds that compiling adds to the first run of a process; {said}. The first compilation on a machine, for "
        f"which PyTorch's headers are compiled as well, took {short(headers)} s ({NETWORK}).",
        "",
    ]
    return "\n".join([*lines, *markdown(["cell", "no code kept", "in another process"], rows)]) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="cells whose name contains this; the table on record stays as it is")
    arguments = parser.parse_args()
    here, table = machine(), []
    with tempfile.TemporaryDirectory(prefix="compilation-") as kept:

        def taken(cell: Cell, times: int) -> list[float]:
            with tempfile.TemporaryDirectory(dir=kept) as cache:
                return [seconds(cell, cache, kept) for _ in range(times)]

        (headers,) = taken(NETWORK, 1)
        for cell in (cell for cell in GRID + BESIDE if arguments.only in str(cell)):
            first, again = taken(cell, 2)
            table.append({"cell": str(cell), "first": first, "again": again})
            print(f"{cell!s:34s} {first:6.1f} s, again {again:6.1f} s", flush=True)
    text = report(table, headers)
    if arguments.only:
        print("\n" + text)
    else:
        save("compilation", {"machine": here, "headers": headers, "table": table}, described(here) + " " + text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
