"""Updates of persistent contrastive divergence per second, of this library and of others, side by side."""

import argparse
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from cells import TRAINING, TRAINING_SETTINGS
from rig import (
    LEAST,
    Contender,
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

PROGRAMS: dict[str, tuple[tuple[str, ...], bool]] = {
    "eager": (("training_ours.py", "eager"), False),
    "compiled": (("training_ours.py", "compiled"), False),
    "ebmkit": (("training_ebmkit.py",), True),
    "plain": (("training_plain.py",), False),
}
OURS = ("eager", "compiled")


def report(table: Sequence[Mapping[str, Any]]) -> str:
    """Updates per second and ratios, as Markdown."""
    names = list(dict.fromkeys(name for row in table for name in row["us"]))
    others = [name for name in names if name not in OURS]
    pairs = [(mine, other) for mine in OURS if mine in names for other in others]
    rows = []
    for row in table:
        cells = [f"{short(1e6 / best(row, name))} ({spread(row['us'][name]):.2f})" for name in names]
        rows.append([row["cell"], *cells, *(f"{best(row, other) / best(row, mine):.2f}" for mine, other in pairs)])
    means = (geometric_mean(best(row, other) / best(row, mine) for row in table) for mine, other in pairs)
    rows.append(["geometric mean", *[""] * len(names), *(f"**{mean:.2f}**" for mean in means)])
    compiling = (row["prepared_s"]["compiled"] for row in table if "compiled" in row["prepared_s"])
    text = [
        "Updates per second, in the best of all rounds, and in brackets the third quartile of their times over the "
        f"least. Langevin steps from a buffer of {TRAINING_SETTINGS['buffer_size']:,} chains, Adam; this library and "
        "ebmkit by their trainers.",
        "",
        *markdown(["network and sampler", *names, *(f"{mine} / {other}" for mine, other in pairs)], rows),
    ]
    if "compiled" in names:
        text += ["", f"The first {LEAST} updates, with all that is compiled: {short(max(compiling))} s at most."]
    return "\n".join(text) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=1.0, help="about how long one measurement takes")
    parser.add_argument("--contenders", default=",".join(PROGRAMS))
    parser.add_argument("--only", default="", help="cells whose name contains this; the table on record stays as it is")
    arguments = parser.parse_args()
    here, table = machine(), []
    chosen = {name: how for name, how in PROGRAMS.items() if name in arguments.contenders.split(",")}
    for cell in (cell for cell in TRAINING if arguments.only in str(cell)):
        entrants = [Contender(name, *program, theirs=theirs) for name, (program, theirs) in chosen.items()]
        try:
            table.append(measure(cell, entrants, arguments.rounds, arguments.seconds))
        finally:
            for contender in entrants:
                contender.close()
        print(shown(table[-1]), flush=True)
    if arguments.only:
        print("\n" + report(table))
    else:
        save("training", {"machine": here, "table": table}, described(here) + " " + report(table))
    return 0


if __name__ == "__main__":
    sys.exit(main())
