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
