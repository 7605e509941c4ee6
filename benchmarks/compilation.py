"""What compiling takes: the first run of a process, and that of another with what PyTorch kept on disk.

For each cell a fresh folder for all that PyTorch keeps, its compiled headers among them, and two processes one after
the other. The figure is the time by which the first run is longer than the second: loading the compiler, tracing, and
writing or finding the code.
"""

import argparse
import sys
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

from cells import BESIDE, GRID, Cell
from rig import LEAST, Contender, described, machine, markdown, save, short

FIRST, AGAIN = 15.0, 6.0  # seconds that are aimed at


def seconds(cell: Cell, cache: str) -> float:
    """In a new process, which keeps everything in that folder."""
    contender = Contender("compiled", "ours.py", "compiled", TORCHINDUCTOR_CACHE_DIR=cache, TMPDIR=cache)
    try:
        first = contender.ask(cell=cell._asdict(), n_steps=LEAST)["seconds"]
        return first - min(contender.ask(n_steps=LEAST)["seconds"] for _ in range(2))
    finally:
        contender.close()


def report(table: Sequence[Mapping[str, Any]]) -> str:
    """The table, and what is beyond the aims, as Markdown."""
    rows = [[row["cell"], short(row["first"]), short(row["again"])] for row in table]
    rows.append(["most", *(f"**{short(max(row[name] for row in table))}**" for name in ("first", "again"))])
    slow = [row["cell"] for row in table if row["first"] > FIRST or row["again"] > AGAIN]
    said = (
        f"beyond {FIRST:g} or {AGAIN:g} s: {', '.join(slow)}" if slow else f"none is beyond {FIRST:g} and {AGAIN:g} s"
    )
    lines = [f"Seconds that compiling adds to the first run of a process; {said}.", ""]
    return "\n".join([*lines, *markdown(["cell", "nothing kept", "in another process"], rows)]) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="cells whose name contains this; the table on record stays as it is")
    arguments = parser.parse_args()
    here, table = machine(), []
    for cell in (cell for cell in GRID + BESIDE if arguments.only in str(cell)):
        with tempfile.TemporaryDirectory(prefix="compilation-") as cache:
            table.append({"cell": str(cell), "first": seconds(cell, cache), "again": seconds(cell, cache)})
        print(f"{cell!s:34s} {table[-1]['first']:6.1f} s, again {table[-1]['again']:6.1f} s", flush=True)
    if arguments.only:
        print("\n" + report(table))
    else:
        save("compilation", {"machine": here, "table": table}, described(here) + " " + report(table))
    return 0


if __name__ == "__main__":
    sys.exit(main())
