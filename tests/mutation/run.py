"""Breaks the package on purpose, one line at a time, and shows that tests notice: `make mutation`.

Each mutant of the table in mutants.py changes a sign or drops a term in a private copy of the package and of the tests.
The few tests that are named for it must then fail, each selection on its own. A mutant that survives is an error that
the suite would not find.
"""

import argparse
import multiprocessing
import os
import re
import runpy
import shlex
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"

import pytest
import scipy.stats  # noqa: F401  imported once, for all the runs that are forked off
import torch

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
MUTANTS = runpy.run_path(str(HERE / "mutants.py"))["MUTANTS"]  # this folder is no package
TIMEOUT = 300  # seconds for one selection of tests


def copy(to):
    """Package and tests, as they are now."""
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "src", to / "src", ignore=ignore)
    shutil.copytree(ROOT / "tests", to / "tests", ignore=ignore)
    shutil.copy(ROOT / "pyproject.toml", to)


def run(folder, selection):
    """What pytest makes of a selection of tests: its exit status, the first failure, and its output."""
    output = folder / "output.txt"
    child = os.fork()
    if child == 0:
        signal.alarm(TIMEOUT)
        os.chdir(folder)
        with open(output, "w") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        sys.path.insert(0, str(folder / "src"))
        status = int(pytest.main(["-q", "-x", "--tb=line", *shlex.split(selection)]))
        package = sys.modules.get("torchebm")
        if package is not None and not Path(package.__file__).is_relative_to(folder):
            print(f"these tests ran against {package.__file__}, not against the copy in {folder}")
            status = 90
        sys.stdout.flush()
        os._exit(status)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return 1, "no end", ""
    text = output.read_text()
    failed = re.search(r"^FAILED (.+?)(?: - .*)?$", text, re.MULTILINE)
    return os.waitstatus_to_exitcode(status), failed.group(1).split("/")[-1] if failed else "", text


def judge(number, folder):
    """Of one mutant: red for each selection, or why not; which tests noticed; seconds."""
    mutant = MUTANTS[number]
    start, path = time.perf_counter(), folder / "src" / "torchebm" / mutant.file
    text = path.read_text()
    path.write_text(text.replace(mutant.old, mutant.new))
    noticed = []
    try:
        for selection in mutant.tests:
            status, first, output = run(folder, selection)
            noticed.append(first)
            if status == 0:
                return "GREEN", f"survives {selection}", time.perf_counter() - start
            if status != 1:  # nothing collected, or the mutant does not even import
                return "ERROR", f"{selection}: {output.strip()[-300:]}", time.perf_counter() - start
    finally:
        path.write_text(text)
    return "red", ", ".join(dict.fromkeys(noticed)), time.perf_counter() - start


def work(task):
    """A task in the folder of this process, which is made when the first one comes."""
    function, argument, temporary = task
    folder = Path(temporary) / str(os.getpid())
    if not folder.exists():
        copy(folder)
    return function(argument, folder)


def baseline(selection, folder):
    return selection, *run(folder, selection)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--jobs", type=int, default=1, help="mutants at a time")
    parser.add_argument("--only", default="", help="regular expression for sampler or description")
    parser.add_argument("--no-baseline", action="store_true", help="do not check first that the tests pass as they are")
    options = parser.parse_args()

    stale = [f"{m.sampler}, {m.what}: {n} times in {m.file}" for m in MUTANTS
             if (n := (ROOT / "src" / "torchebm" / m.file).read_text().count(m.old)) != 1]  # fmt: skip
    if stale:
        raise SystemExit("the table is stale; each text must occur exactly once:\n  " + "\n  ".join(stale))
    chosen = [i for i, m in enumerate(MUTANTS) if re.search(options.only, f"{m.sampler}: {m.what}")]
    start = time.perf_counter()
    torch.set_num_threads(1)
    sys.dont_write_bytecode = True  # a mutant of the same size, a moment later, must not meet the bytecode before
    counts = {"red": 0, "GREEN": 0, "ERROR": 0}
    with (
        tempfile.TemporaryDirectory(prefix="torchebm-mutation-") as temporary,
        multiprocessing.get_context("fork").Pool(options.jobs) as pool,
    ):
        temporary = str(Path(temporary).resolve())
        if not options.no_baseline:
            selections = sorted({selection for i in chosen for selection in MUTANTS[i].tests})
            tasks = [(baseline, selection, temporary) for selection in selections]
            for selection, status, first, output in pool.imap(work, tasks):
                if status != 0:
                    raise SystemExit(f"not green without a mutant: {selection}: {first}\n{output[-2000:]}")
            print(f"{len(selections)} selections of tests are green without a mutant, "
                  f"after {time.perf_counter() - start:.0f} s\n")  # fmt: skip
        print("| sampler | what was broken | verdict | seconds | noticed by |\n|---|---|---|---|---|", flush=True)
        results = pool.imap(work, [(judge, i, temporary) for i in chosen])
        for i, (verdict, by, seconds) in zip(chosen, results, strict=True):
            mutant = MUTANTS[i]
            counts[verdict] += 1
            print(f"| {mutant.sampler} | {mutant.what} | {verdict} | {seconds:.1f} | {by} |", flush=True)
    print(f"\n{counts['red']} of {len(chosen)} mutants were noticed, in {time.perf_counter() - start:.0f} s.")
    sys.exit(counts["red"] != len(chosen))


if __name__ == "__main__":
    main()
