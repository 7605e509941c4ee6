"""Requests and answers, a line of JSON each, between a benchmark and its contenders."""

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from cells import Cell

# Runs that many steps, and waits for them. What it returns are the seconds they took, where the clock does not tell.
Prepared = Callable[[int], Any]


def answer(handle: Callable[[dict], dict]) -> None:
    """Answers until the input ends. What contenders print goes to the error stream: answers alone are read."""
    answers, sys.stdout = os.fdopen(os.dup(1), "w"), sys.stderr
    os.dup2(2, 1)
    for line in sys.stdin:
        print(json.dumps(handle(json.loads(line))), file=answers, flush=True)


def serve(prepare: Callable[[Any], Prepared | None], kind: type = Cell) -> None:
    """Prepares cells and runs them; `prepare` returns `None` for a cell that the contender has nothing for."""
    run: Prepared | None = None

    def handle(request: dict) -> dict:
        nonlocal run
        began, spent = time.perf_counter(), None
        if "cell" in request:
            run = prepare(kind(**request["cell"]))
        if run is not None:
            spent = run(request["n_steps"])  # the first time, whatever is compiled is compiled here
        seconds = spent if isinstance(spent, float) else time.perf_counter() - began
        return {"seconds": seconds, "known": run is not None}

    answer(handle)
