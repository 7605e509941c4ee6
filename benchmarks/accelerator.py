"""Langevin steps on an accelerator: the fused kernel, CUDA graphs, compiled blocks, eager steps, and JAX.

`python benchmarks/accelerator.py` needs a CUDA device and writes `results/accelerator.md`: microseconds per step of all
chains, and, beside them, how fast the fused kernel gets through memory. That is the 8 bytes an entry that a loop moves
which reads and writes the chains once a step, over the time of a step, in GB/s and as a multiple of the card's own copy
speed: above 1, steps cost less than one copy of the chains each.

JAX is BlackJAX in the environment of the peers, if its jaxlib knows the device: `pip install "jax[cuda12]"` there.
`--device cpu` tries the script out where there is no accelerator; nothing is fused then.
"""

import argparse
import time
from collections.abc import Sequence
from typing import Any

import torch
from cells import Cell
from rig import PEERS, Contender, ContenderError, best, described, machine, markdown, measure, save, short, shown

import torchebm  # the installed package, whose kernels these are

WAYS = "fused", "single", "graphs", "compiled", "eager"
SIZES = (1, 2), (1000, 2), (10_000, 2), (1000, 100), (100_000, 100), (1_000_000, 100)
NETWORKS = (1000, 2), (10_000, 2), (1000, 100), (100_000, 100)
BYTES = 8  # an entry in float32, read and written


def cells(small: bool) -> list[Cell]:
    wells, networks = (SIZES[:2], NETWORKS[:1]) if small else (SIZES, NETWORKS)
    return [Cell("langevin", "double_well", *size) for size in wells] + [
        Cell("langevin", "mlp", *size) for size in networks
    ]


def entrants(device: str) -> list[Contender]:
    ours = [Contender(way, "accelerated.py", way, device) for way in WAYS]
    if PEERS.exists():
        ours.append(Contender("blackjax", "blackjax_.py", theirs=True, JAX_PLATFORMS=device))
    return ours


def measured(cell: Cell, device: str, rounds: int, seconds: float) -> dict[str, Any]:
    """One row; a contender that stops is left out, and its error was shown."""
    running = entrants(device)
    try:
        for contender in list(running):
            try:
                contender.ask(cell=cell._asdict(), n_steps=1)
            except (ContenderError, BrokenPipeError) as error:
                print(f"left out: {error}", flush=True)
                contender.close()
                running.remove(contender)
        return measure(cell, running, rounds, seconds)
    finally:
        for contender in running:
            contender.close()


def copy_speed(device: str, size: int) -> float:
    """Bytes a second, read and written, of the device's own copy of a large tensor; the best of twenty."""
    source = torch.ones(size, dtype=torch.uint8, device=device)
    target, speeds = torch.empty_like(source), []
    for _ in range(20):
        if device == "cuda":
            torch.cuda.synchronize()
        began = time.perf_counter()
        target.copy_(source)
        if device == "cuda":
            torch.cuda.synchronize()
        speeds.append(2 * size / (time.perf_counter() - began))
    return max(speeds)


def report(table: Sequence[dict[str, Any]], copy: float, where: str) -> str:
    names = [name for name in (*WAYS, "blackjax") if any(name in row["us"] for row in table)]
    rows = []
    for row in table:
        figures = [short(best(row, name)) if name in row["us"] else "-" for name in names]
        for way in ("fused", "single"):
            if way in row["us"]:
                speed = BYTES * row["chains"] * row["dim"] / best(row, way) * 1e6
                figures += [f"{speed / 1e9:,.0f}", f"{speed / copy:.2f}"]
            else:
                figures += ["-", "-"]
        rows.append([row["cell"], *figures])
    header = ["cell", *names, "fused, GB/s", "of a copy", "single, GB/s", "of a copy"]
    lines = [
        f"{where} A copy moves {copy / 1e9:,.0f} GB/s.",
        "",
        "Microseconds per step of all chains, the least of the rounds.",
        "",
        *markdown(header, rows),
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.3, help="of one measurement, about")
    parser.add_argument("--small", action="store_true", help="three cells of little work")
    chosen = parser.parse_args()
    if chosen.device == "cuda" and not torch.cuda.is_available():
        parser.error("there is no CUDA device here; --device cpu tries the script out.")
    here = machine()
    where = described(here)
    if chosen.device == "cuda":
        here["card"] = torch.cuda.get_device_name()
        where = f"On one {here['card']}, PyTorch {torch.__version__}, torchebm {torchebm.__version__}. {where}"
    copy = copy_speed(chosen.device, 1 << (30 if chosen.device == "cuda" else 26))
    table = []
    for cell in cells(chosen.small):
        table.append(measured(cell, chosen.device, chosen.rounds, chosen.seconds))
        print(shown(table[-1]), flush=True)
    text = report(table, copy, where)
    if chosen.device == "cpu":
        print("\n" + text)  # no figures of an accelerator
        return
    save("accelerator", {"machine": here, "copy_bytes_per_second": copy, "table": table}, text)


if __name__ == "__main__":
    main()
