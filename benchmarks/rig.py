"""What the benchmarks share: contenders in processes of their own, rounds that go through all of them, and tables."""

import importlib.metadata
import json
import math
import os
import platform
import select
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
RESULTS = HERE / "results"
IMAGES = HERE.parent / "docs" / "images"
PEERS = HERE / ".venv-peers" / "bin" / "python"
LEAST = 32  # transitions, or updates, in one measurement; shorter runs are compiled in shorter blocks
MOST = 1 << 16
FEWEST = 5  # rounds, however long they take
REST = 0.03  # seconds before a measurement: threads of the contender before spin for some 10 ms when their work is done


class ContenderError(RuntimeError):
    """A contender that stopped, or did not answer in time."""


class Contender:
    """A process that prepares what it is told to, and runs it when it is told to.

    Args:
        name: In tables.
        program: File in `contenders/`, and its arguments.
        theirs: Whether it runs in the environment of the peers.
        **environment: Variables of its own.
    """

    def __init__(self, name: str, *program: str, theirs: bool = False, **environment: str) -> None:
        self.name = name
        kept = {"MALLOC_TRIM_THRESHOLD_": str(1 << 30), "MALLOC_MMAP_THRESHOLD_": str(1 << 30)}  # the same for everyone
        variables = os.environ | kept | {"PYTHONPATH": str(HERE), "JAX_PLATFORMS": "cpu"} | environment
        command = [str(PEERS) if theirs else sys.executable, str(HERE / "contenders" / program[0]), *program[1:]]
        pipes: dict = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self._process = subprocess.Popen(command, env=variables, **pipes)

    def ask(self, *, limit: float | None = None, **request: object) -> dict[str, Any]:
        """Sends a line and waits for the answer, for `limit` seconds at most."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write((json.dumps(request) + "\n").encode())
            self._process.stdin.flush()
        except BrokenPipeError as error:
            raise ContenderError(f"{self.name} stopped before {request}: see its error above.") from error
        if not select.select([self._process.stdout], [], [], limit)[0]:
            raise ContenderError(f"{self.name} took more than {limit:g} s.")
        answer = self._process.stdout.readline()
        if not answer:
            raise ContenderError(f"{self.name} stopped on {request}: see its error above.")
        return json.loads(answer)

    def close(self) -> None:
        """Ends the process, also one that is still busy."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            self._process.wait(1)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()


def measure(cell: Any, entrants: Sequence[Contender], rounds: int, seconds: float,
            longest: float = math.inf) -> dict[str, Any]:  # fmt: skip
    """Microseconds per step of each contender, one figure a round, and what preparing the first run took.

    Each runs as many steps as take it about `seconds`, so that what one call costs beside its steps is no part of it.
    What that is for the shortest run is measured as well. There are `rounds` rounds, but no more than `FEWEST` once
    they have taken `longest` seconds; in them everyone begins on a machine at rest, with a short run that is not timed,
    unless that is as long as the one that is.
    """
    row: dict[str, Any] = {
        "cell": str(cell),
        **cell._asdict(),
        "prepared_s": {},
        "n_steps": {},
        "us": {},
        "call_us": {},
    }
    known = []
    for contender in entrants:
        answer = contender.ask(cell=cell._asdict(), n_steps=LEAST)
        if answer["known"]:
            known.append(contender)
            row["prepared_s"][contender.name] = answer["seconds"]
            row["call_us"][contender.name] = min(contender.ask(n_steps=LEAST)["seconds"] for _ in range(3)) * 1e6
            row["n_steps"][contender.name] = calibrated(contender, seconds)
    spent = 0.0
    for done in range(rounds):
        if done >= FEWEST and spent > longest:
            break
        for contender in known:
            n = row["n_steps"][contender.name]
            time.sleep(REST)
            if n > LEAST:  # caches are cold and threads asleep, which can cost a millisecond or three
                contender.ask(n_steps=LEAST)
            took = contender.ask(n_steps=n)["seconds"]
            row["us"].setdefault(contender.name, []).append(took / n * 1e6)
            spent += took
    return row


def calibrated(contender: Contender, seconds: float) -> int:
    """How many steps take about that long; never fewer than `LEAST`."""
    n = LEAST
    for _ in range(3):
        contender.ask(n_steps=n)  # another length may compile something
        took = contender.ask(n_steps=n)["seconds"]
        if took > 0.6 * seconds or n == MOST:
            break
        n = next_length(n, took, seconds)
    else:
        contender.ask(n_steps=n)
    return n


def next_length(n: int, took: float, seconds: float) -> int:
    """A multiple of `LEAST`, within limits, that should take about `seconds` if n steps took `took`."""
    return min(MOST, max(LEAST, LEAST * math.ceil(n * seconds / max(took, 1e-9) / LEAST)))


def shown(row: Mapping[str, Any]) -> str:
    """A row for the terminal: the least of each contender, and its spread."""
    figures = (f"{name} {min(us):9.1f} ({spread(us):.2f})" for name, us in row["us"].items())
    return f"{row['cell']:34s} {'  '.join(figures)}"


def best(row: Mapping[str, Any], name: str) -> float:
    return min(row["us"][name])


def spread(figures: Sequence[float]) -> float:
    """The third quartile over the least."""
    return statistics.quantiles(figures)[2] / min(figures) if len(figures) > 1 else 1.0


def geometric_mean(ratios: Iterable[float]) -> float:
    """NaN of nothing."""
    ratios = list(ratios)
    return statistics.geometric_mean(ratios) if ratios else math.nan


def short(value: float) -> str:
    """Three digits, as a table wants them; large numbers whole."""
    if not math.isfinite(value):
        return "-"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Lines of a table; the first column is text, the others are numbers."""
    lines = ["| " + " | ".join(header) + " |", "|---|" + "---:|" * (len(header) - 1)]
    return lines + ["| " + " | ".join(row) + " |" for row in rows]


def machine() -> dict[str, Any]:
    """Where the figures come from."""
    processor = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        processor = names[0] if names else processor
    return {"processor": processor, "cores": os.cpu_count(), "python": platform.python_version(),
            "torch": importlib.metadata.version("torch"), "load": round(_busy_cores(), 2)}  # fmt: skip


def _busy_cores(seconds: float = 1.0) -> float:
    """Cores that are at work now, by Linux's count; elsewhere the load of the last minute."""
    stat = Path("/proc/stat")
    if not stat.exists():
        return os.getloadavg()[0]

    def ticks() -> tuple[int, int]:
        """All and idle ones, of all cores."""
        spent = [int(number) for number in stat.read_text().splitlines()[0].split()[1:]]
        return sum(spent), spent[3] + spent[4]

    all_before, idle_before = ticks()
    time.sleep(seconds)
    all_after, idle_after = ticks()
    share = 1 - (idle_after - idle_before) / max(1, all_after - all_before)
    return share * (os.cpu_count() or 1)


def described(here: Mapping[str, Any]) -> str:
    """A sentence about the machine, with a warning in it if something else ran on it."""
    busy = f" Something else was running when it began: load {here['load']}." if here["load"] > 0.5 else ""
    torch = f", PyTorch {here['torch']}" if "torch" in here else ""
    return f"Measured on {here['cores']} cores ({here['processor']}), Python {here['python']}{torch}.{busy}"


def save(name: str, results: Mapping[str, Any], text: str) -> None:
    """Writes `results/name.json` and `results/name.md`, and shows the text."""
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(results, indent=1) + "\n")
    (RESULTS / f"{name}.md").write_text(text)
    print("\n" + text)
