"""A run that is killed and resumed is the run that was never interrupted, bit for bit."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file

from torchebm.training.checkpoint import list_checkpoints, newest_checkpoint

SCRIPT = """
import sys, torch
from torch import nn
from torchebm.core import EnergyModel
from torchebm.losses import ContrastiveDivergence
from torchebm.samplers import LangevinDynamics
from torchebm.training import Trainer

folder, resume, pause = sys.argv[1], sys.argv[2] == "resume", float(sys.argv[3])
torch.set_num_threads(1)
torch.manual_seed(0)
class Slow(nn.Module):  # dropout uses the global stream, which must be restored as well
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2, 32), nn.SiLU(), nn.Dropout(0.1), nn.Linear(32, 1))
    def forward(self, x):
        if pause and self.training:
            import time; time.sleep(pause)
        return self.net(x)
model = EnergyModel(Slow())
schedule = lambda k: 0.05 / (1 + 0.001 * k)
loss_fn = ContrastiveDivergence(model, LangevinDynamics(model, schedule), k_steps=3, persistent=True, buffer_size=300,
                                new_sample_ratio=0.05, data_noise=0.1, reset_schedulers=False)
trainer = Trainer(loss_fn, ema_decay=0.99, grad_clip_norm=1.0, out_dir=folder, checkpoint_every=37, log_every=7,
                  learning_rate_schedule=lambda k: 1 - k / 400)
data = torch.randn(500, 2, generator=torch.Generator().manual_seed(1))
trainer.fit(data, 200, batch_size=64, resume=resume, progress=False)
"""


def run(folder, resume="fresh", pause=0.0, wait=True):
    command = [sys.executable, "-c", SCRIPT, str(folder), resume, str(pause)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    if wait:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    return process


def everything(folder):
    newest = newest_checkpoint(folder / "checkpoints")
    assert newest.name == "step-00000200"
    tensors = {f"{f.stem}/{k}": t for f in newest.glob("*.safetensors") for k, t in load_file(f).items()}
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return tensors, [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


def test_killed_and_resumed_equals_uninterrupted(tmp_path):
    run(tmp_path / "whole")
    process = run(tmp_path / "killed", pause=0.01, wait=False)
    deadline = time.monotonic() + 100
    while len(list_checkpoints(tmp_path / "killed/checkpoints")) < 2 or not (
        newest_checkpoint(tmp_path / "killed/checkpoints").name >= "step-00000074"
    ):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert newest_checkpoint(tmp_path / "killed/checkpoints").name < "step-00000200"
    run(tmp_path / "killed", "resume")
    (whole, whole_lines), (killed, killed_lines) = everything(tmp_path / "whole"), everything(tmp_path / "killed")
    assert whole.keys() == killed.keys()
    for name in whole:
        assert torch.equal(whole[name], killed[name]), name
    assert whole_lines == killed_lines


def test_interrupt_finishes_the_step_and_saves(tmp_path):
    run(tmp_path / "whole")
    process = run(tmp_path / "stopped", pause=0.01, wait=False)
    deadline = time.monotonic() + 100
    while not (tmp_path / "stopped/metrics.jsonl").exists() or not (tmp_path / "stopped/metrics.jsonl").read_text():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode != 0
    assert "resume=True continues" in errors
    run(tmp_path / "stopped", "resume")
    whole, stopped = everything(tmp_path / "whole")[0], everything(tmp_path / "stopped")[0]
    assert all(torch.equal(whole[name], stopped[name]) for name in whole)


def test_resume_from_nothing_begins(tmp_path):
    run(tmp_path / "new", "resume")
    assert everything(tmp_path / "new")[1]


@pytest.mark.parametrize("leftover", [".step-00000074.123", "step-00000900"])
def test_incomplete_checkpoints_are_passed_over(tmp_path, leftover):
    run(tmp_path / "run")
    (tmp_path / "run/checkpoints" / leftover).mkdir()
    assert newest_checkpoint(tmp_path / "run/checkpoints").name == "step-00000200"
