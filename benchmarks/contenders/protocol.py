"""Requests and answers, a line of JSON each, between the benchmark and its contenders."""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from cells import Cell

Prepared = Callable[[int], None]  # runs that many transitions, and waits for them


def serve(prepare: Callable[[Cell], Prepared | None]) -> None:
    """Answers until the input ends; `prepare` returns `None` for a cell that the contender has no sampler for."""
    run: Prepared | None = None
    for line in sys.stdin:
        request = json.loads(line)
        began = time.perf_counter()
        if "cell" in request:
            run = prepare(Cell(**request["cell"]))
            if run is not None:
                run(request["n_steps"])  # whatever is compiled, is compiled here
        elif run is not None:
            run(request["n_steps"])
        print(json.dumps({"seconds": time.perf_counter() - began, "known": run is not None}), flush=True)
