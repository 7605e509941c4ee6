"""The script that makes the pictures of failures runs."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "docs" / "make_failure_pictures.py"


def test_the_script_that_makes_the_pictures_runs(tmp_path):
    pytest.importorskip("matplotlib")
    command = [sys.executable, str(SCRIPT), "--quick", "--out", str(tmp_path)]
    environment = {**os.environ, "MPLBACKEND": "Agg"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr
    names = ["box", "frozen-chains", "langevin-steps", "learning-rate", "no-base"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"diverging-{name}.png" for name in names]
