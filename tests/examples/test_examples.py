"""The examples run, briefly, as a reader would run them."""

import os
import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parents[2] / "examples"


def run(name, *arguments, cwd):
    done = subprocess.run([sys.executable, "-W", "error", str(EXAMPLES / name), *arguments], cwd=cwd, check=False,
                          capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_gaussian_1d(tmp_path):
    printed = run("gaussian_1d.py", "--n-steps", "300", "--out", "pictures", cwd=tmp_path)
    pictures = ["data.png", "energy.png", "histograms.png", "particles.png"]
    assert sorted(path.name for path in (tmp_path / "pictures").iterdir()) == pictures
    lines = [line.split() for line in printed.splitlines() if "mean" in line]
    assert [line[0] for line in lines] == ["data", "samples"]
    (mean, spread), (sample_mean, sample_spread) = ((float(line[2]), float(line[-1])) for line in lines)
    assert abs(sample_mean - mean) < 0.5  # after a seventh of the updates
    assert 0.6 < sample_spread / spread < 1.6


def test_choosing_a_sampler(tmp_path):
    printed = run("choosing_a_sampler.py", "--quick", "--out", "pictures", cwd=tmp_path)
    assert sorted(path.name for path in (tmp_path / "pictures").iterdir()) == ["cost.png", "traces.png"]
    header, *rows = [line.split() for line in printed.splitlines()]
    cost = {row[0]: float(row[5]) for row in rows}
    assert len(cost) == 7
    assert header[3] == "evaluations/ESS"
    assert max(cost[n] for n in cost if n.endswith("MonteCarlo")) < cost["MetropolisHastings"]


def test_bayesian_regression(tmp_path):
    printed = run("bayesian_regression.py", "--quick", "--out", "pictures", cwd=tmp_path)
    pictures = ["energy.png", "pair.png", "rank.png", "trace.png"]
    assert sorted(path.name for path in (tmp_path / "pictures").iterdir()) == pictures
    table = {line.split()[0]: line.split() for line in printed.splitlines() if line}
    for label, truth in [("intercept", 1.0), ("slope[0]", 2.0), ("slope[1]", -1.0)]:
        assert abs(float(table[label][1]) - truth) < 4 * float(table[label][2])  # the data are always the same
    assert float(table["freedom"][1]) > 1


def test_multimodal(tmp_path):
    printed = run("multimodal.py", "--quick", "--out", "pictures", cwd=tmp_path)
    assert sorted(path.name for path in (tmp_path / "pictures").iterdir()) == ["shares.png", "traces.png"]
    both, one, tempered = [line.split() for line in printed.splitlines() if "R-hat" in line and "mass" in line]
    r_hats = [float(words[words.index("R-hat") + 1].rstrip(",")) for words in (both, one, tempered)]
    shares = [float(words[words.index("of") - 1]) for words in (both, one, tempered)]
    assert r_hats[0] > 1.5
    assert r_hats[1] < 1.02  # and nearly a third of the mass is missing
    assert shares[:2] == [0.5, 0.0]
    assert abs(shares[2] - 0.3) < 0.1  # five standard errors of so few draws
