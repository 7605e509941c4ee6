"""Effective samples per second, of this library and of others, on the six reference posteriors.

Bulk effective sample size by ArviZ, the least of all parameters, over the seconds that it took: those of warm-up and
draws; of the draws alone; and of the first run of a process, with all that is compiled for it.

Everyone has the same posterior, data, warm-up and draws a chain, and as many chains as help: a search tries ways to run
each contender, numbers of chains in ascending order until they help no more, and the best one counts. It then runs in a
process of its own, in rounds that go through all contenders; the figure is the best round. A run whose chains disagree,
or whose means are not those of the reference, does not count.
"""

import argparse
import json
import math
import runpy
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from rig import HERE, RESULTS, Contender, ContenderError, described, geometric_mean, machine, markdown, save, short

POSTERIORS = runpy.run_path(str(HERE.parent / "tests" / "posteriors" / "models.py"))["POSTERIORS"]
CHAINS = (4, 64, 512, 2048)
MOST_TREES = 512  # chains of our NUTS, which all wait for the longest trajectory
MAX_R_HAT = 1.01
LIMIT = 90.0  # seconds for one run of the search


class Way(NamedTuple):
    """A way to run a contender, for each of some numbers of chains."""

    contender: str
    label: str
    program: tuple[str, ...]
    chains: tuple[int, ...]
    settings: Mapping[str, Any]
    theirs: bool = True


def ways(chains: Sequence[int]) -> list[Way]:
    """All that are searched; `chains` are the numbers for those who vectorise."""
    few, several = tuple(chains), tuple(n for n in chains if n > 4) or tuple(chains)
    trees = tuple(n for n in chains if n <= MOST_TREES) or few[:1]
    found = []
    for kind, numbers in (("NUTS", trees), ("ChEES", several)):
        program, settings = ("posteriors_ours.py",), {"sampler_kind": kind}
        found.append(Way(f"our {kind}", "compiled", program, numbers, settings, theirs=False))
    vectorised = ("posteriors_numpyro.py", "32")  # its own default, and faster than 64
    found.append(Way("NumPyro", "vectorised, 32 bits", vectorised, few, {"method": "vectorized"}))
    found.append(Way("NumPyro", "sequential, 64 bits", ("posteriors_numpyro.py", "64"), (4,), {"method": "sequential"}))
    parallel = ("posteriors_numpyro.py", "64", "2")  # as many devices as chains
    found.append(Way("NumPyro", "parallel, 64 bits", parallel, (2,), {"method": "parallel"}))
    found.append(Way("nutpie", "threads", ("posteriors_nutpie.py",), (2, 6, 16, 64), {}))
    return found


class Measured(NamedTuple):
    """One run, with what became of it."""

    contender: str
    label: str
    chains: int
    ess: float
    """Bulk, the least of all parameters."""
    r_hat: float
    error: float
    """Of the means, the largest, in standard deviations of the reference."""
    warmup_s: float
    draws_s: float
    all_s: float
    gradients: int
    """After the warm-up, of all chains."""

    @property
    def seconds(self) -> float:
        return self.warmup_s + self.draws_s

    @property
    def rate(self) -> float:
        """Effective samples per second, warm-up included; none where the draws are not to be trusted."""
        return self.ess / self.seconds if self.sound else 0.0

    @property
    def sound(self) -> bool:
        """Whether chains agree, and means are those of the reference: it is off by 0.01 sd itself, the largest of ten
        errors by two or three standard errors."""
        return self.r_hat < MAX_R_HAT and self.error < 0.05 + 4 / math.sqrt(max(self.ess, 1.0))


class Bench:
    """Runs ways on one posterior, and judges their draws."""

    def __init__(self, posterior: str, n_warmup: int, n_draws: int, folder: Path) -> None:
        self.posterior, self.n_warmup, self.n_draws, self.folder = posterior, n_warmup, n_draws, folder

    def open(self, way: Way) -> Contender:
        """A process with compiler caches of its own, whose log density is ours up to a constant."""
        cache = tempfile.mkdtemp(dir=self.folder)
        contender = Contender(way.contender, *way.program, theirs=way.theirs, TORCHINDUCTOR_CACHE_DIR=cache)
        if way.theirs and way.program[1:2] != ("32",):  # the same program at 64 bits is checked
            self._check(contender)
        return contender

    def run(self, contender: Contender, way: Way, chains: int, seed: int, limit: float | None = None) -> Measured:
        out = self.folder / "draws.npy"
        found = contender.ask(limit=limit, posterior=self.posterior, n_warmup=self.n_warmup, n_draws=self.n_draws,
                              seed=seed, chains=chains, out=str(out), **way.settings)  # fmt: skip
        return Measured(way.contender, way.label, chains, *self._judged(np.load(out)), **found)

    def _check(self, contender: Contender) -> None:
        posterior = POSTERIORS[self.posterior]
        x = posterior.initial(20, torch.Generator().manual_seed(0))
        theirs = contender.ask(posterior=self.posterior, x=x.tolist())["log_density"]
        difference = torch.tensor(theirs, dtype=torch.float64) + posterior.model(x)
        scale = posterior.model(x).abs().max()
        if not float((difference - difference.median()).abs().max() / scale) < 1e-9:
            raise ContenderError(
                f"{contender.name} has another density for {self.posterior}: the logarithms differ from ours by "
                f"{difference.tolist()}, which is no constant."
            )

    def _judged(self, draws: np.ndarray) -> tuple[float, float, float]:
        import arviz

        posterior = POSTERIORS[self.posterior]
        x = posterior.report(torch.from_numpy(draws))
        error = float(((x.mean((0, 1)) - posterior.mean) / posterior.sd).abs().max())
        data = arviz.convert_to_dataset({"x": x.numpy()})
        ess, r_hat = arviz.ess(data, method="bulk")["x"].values, arviz.rhat(data)["x"].values
        return float(ess.min()), float(r_hat.max()), error


def search(bench: Bench, candidates: Sequence[Way]) -> tuple[dict[str, tuple[Way, int]], list[str]]:
    """The best way and number of chains for each contender, and a line for each that was tried."""
    chosen: dict[str, tuple[Way, int]] = {}
    rates: dict[str, float] = {}
    lines = []
    for way in candidates:
        contender, before = bench.open(way), -math.inf
        try:
            for chains in way.chains:
                try:
                    bench.run(contender, way, chains, seed=0, limit=LIMIT)  # compiles
                    found = bench.run(contender, way, chains, seed=1, limit=LIMIT)
                except ContenderError as error:
                    lines.append(f"{way.contender}, {way.label}, {chains} chains: {error}")
                    break
                lines.append(line(found))
                print("   ", lines[-1], flush=True)
                if found.rate > rates.get(way.contender, 0.0):
                    rates[way.contender], chosen[way.contender] = found.rate, (way, chains)
                if 0 < found.rate < before:
                    break
                before = max(before, found.rate)
        finally:
            contender.close()
    return chosen, lines


def line(found: Measured) -> str:
    """What one run came to, in words."""
    said = (f"{found.contender}, {found.label}, {found.chains} chains: ESS {found.ess:.0f} in {found.warmup_s:.2f} + "
            f"{found.draws_s:.2f} s, R-hat {found.r_hat:.4f}, error {found.error:.3f} sd")  # fmt: skip
    return said if found.sound else f"{said}: does not count"


def final(bench: Bench, chosen: Mapping[str, tuple[Way, int]], rounds: int) -> dict[str, dict[str, Any]]:
    """The first run of each contender in a process of its own, and the best of the rounds after it."""
    entrants = {name: bench.open(way) for name, (way, _) in chosen.items()}
    results: dict[str, dict[str, Any]] = {}
    try:
        for name, (way, chains) in chosen.items():
            first = bench.run(entrants[name], way, chains, seed=100)
            results[name] = {"label": way.label, "chains": chains, "first_s": first.all_s,
                             "first": first.ess / first.all_s if first.sound else math.nan, "runs": []}  # fmt: skip
        for i in range(rounds):
            for name, (way, chains) in chosen.items():
                found = bench.run(entrants[name], way, chains, seed=101 + i)
                results[name]["runs"].append(found._asdict() | {"rate": found.rate, "sound": found.sound})
                print("   ", line(found), flush=True)
    finally:
        for contender in entrants.values():
            contender.close()
    return {name: result | summarised(result["runs"]) for name, result in results.items()}


def summarised(runs: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The best round, by effective samples per second with the warm-up; figures of nothing sound are NaN."""
    sound = [run for run in runs if run["sound"]]
    if not sound:
        return dict.fromkeys(("rate", "rate_of_draws", "compiling_s", "per_gradient", "gradients_per_s"), math.nan)
    top = max(sound, key=lambda run: run["rate"])
    return {
        "rate": top["rate"],
        "rate_of_draws": max(run["ess"] / run["draws_s"] for run in sound),
        "per_gradient": top["ess"] / top["gradients"],
        "gradients_per_s": top["gradients"] / top["draws_s"],
        "seconds": top["warmup_s"] + top["draws_s"],
    }


# the report -----------------------------------------------------------------------------------------------------------

FIGURES = {
    "rate": "warm-up and draws",
    "rate_of_draws": "draws alone",
    "first": "the first run of a process, with all that is compiled for it",
}


def ours_of(row: Mapping[str, Any], figure: str) -> float:
    """The better of our samplers."""
    found = [row[name][figure] for name in row if name.startswith("our ")]
    return max((rate for rate in found if math.isfinite(rate)), default=math.nan)


def report(table: Mapping[str, Mapping[str, Any]], settings: str, entered: Sequence[str] = ()) -> str:
    """Tables and ratios, as Markdown; of all that entered, whether or not a run of theirs counts."""
    names = list(dict.fromkeys([*entered, *(name for row in table.values() for name in row)]))
    peers = [name for name in names if not name.startswith("our ")]
    lines = [f"Bulk effective samples per second, of the parameter that has fewest; {settings}."]
    for figure, what in FIGURES.items():
        header = ["posterior", *names, *(f"ours / {peer}" for peer in peers)]
        rows = []
        for posterior, row in table.items():
            cells = [short(row[name][figure]) if name in row else "-" for name in names]
            rows.append([posterior, *cells, *(short(against(row, peer, figure)) for peer in peers)])
        means = [geometric_mean(ratios(table, peer, figure)) for peer in peers]
        rows.append(["geometric mean", *[""] * len(names), *(f"**{mean:.2f}**" if mean > 0 else "-" for mean in means)])
        lines += ["", f"{what.capitalize()}:", "", *markdown(header, rows)]
    header = ["posterior", *names]
    rows = [[key, *(served(row[name]) if name in row else "-" for name in names)] for key, row in table.items()]
    lines += ["", "What served each best: chains, the way to run them, and seconds for compiling + for a run.", ""]
    lines += [*markdown(header, rows), *losses(table, peers), *missing(table, names)]
    return "\n".join(lines) + "\n"


def against(row: Mapping[str, Any], peer: str, figure: str) -> float:
    return ours_of(row, figure) / row[peer][figure] if peer in row else math.nan


def ratios(table: Mapping[str, Mapping[str, Any]], peer: str, figure: str) -> list[float]:
    found = (against(row, peer, figure) for row in table.values())
    return [ratio for ratio in found if math.isfinite(ratio)]


def served(result: Mapping[str, Any]) -> str:
    seconds = result.get("seconds", math.nan)
    return f"{result['chains']}, {result['label']}; {short(result['first_s'] - seconds)} + {short(seconds)}"


def losses(table: Mapping[str, Mapping[str, Any]], peers: Sequence[str]) -> list[str]:
    """For each posterior where a peer is faster: whether its draws or its gradients are the reason."""
    lines = []
    for posterior, row in table.items():
        sound = [name for name in row if name.startswith("our ") and math.isfinite(row[name]["rate"])]
        ours = max(sound, key=lambda name: row[name]["rate"], default=None)
        for peer in peers:
            ratio = against(row, peer, "rate")
            if ours is None or not ratio < 1:
                continue
            draws = row[ours]["per_gradient"] / row[peer]["per_gradient"]
            speed = row[ours]["gradients_per_s"] / row[peer]["gradients_per_s"]
            lines.append(
                f"- {posterior}: {ratio:.2f} of {peer}. {ours} gets {draws:.2f} x as many effective samples from a "
                f"gradient, and computes {speed:.2f} x as many gradients per second."
            )
    return ["", "Where ours is slower, and why:", "", *lines] if lines else []


def missing(table: Mapping[str, Mapping[str, Any]], names: Sequence[str]) -> list[str]:
    """Whose draws were not to be trusted, in any way to run them."""
    lines = [f"- {posterior}: no run of {name} counts." for posterior, row in table.items() for name in names
             if name not in row or not math.isfinite(row[name]["rate"])]  # fmt: skip
    return ["", "Chains that disagree, or are not at the reference:", "", *lines] if lines else []


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--posteriors", default=",".join(POSTERIORS))
    parser.add_argument("--contenders", default="our NUTS,our ChEES,NumPyro,nutpie")
    parser.add_argument("--warmup", type=int, default=400, help="transitions a chain")
    parser.add_argument("--draws", type=int, default=1000, help="of each chain")
    parser.add_argument("--chains", type=int, nargs="+", default=CHAINS, help="for those who vectorise, ascending")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--try", action="store_true", dest="attempt", help="show the report; the one on record stays")
    arguments = parser.parse_args()
    settings = f"{arguments.warmup} transitions of warm-up and {arguments.draws} draws a chain, for everyone"
    results = {"machine": machine(), "settings": settings, "table": {}, "tried": {}}
    record = RESULTS / "posteriors.json"
    if record.exists() and not arguments.attempt:
        before = json.loads(record.read_text())
        if before["settings"] == settings:  # posteriors may be measured one by one
            results |= {"table": before["table"], "tried": before["tried"]}
    entered = arguments.contenders.split(",")
    candidates = [way for way in ways(arguments.chains) if way.contender in entered]
    for posterior in arguments.posteriors.split(","):
        print(posterior, flush=True)
        folder = Path(tempfile.mkdtemp(prefix="posteriors-"))
        try:
            bench = Bench(posterior, arguments.warmup, arguments.draws, folder)
            best, results["tried"][posterior] = search(bench, candidates)
            results["table"][posterior] = final(bench, best, arguments.rounds)
        finally:
            shutil.rmtree(folder)
        text = report(results["table"], settings, entered)
        if arguments.attempt:
            print("\n" + text)
        else:
            save("posteriors", results, described(results["machine"]) + " " + text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
