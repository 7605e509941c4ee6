"""A run that is killed and resumed is the run that was never interrupted, bit for bit: rollbacks and all."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file

from torchebm.training import read_events
from torchebm.training.checkpoint import list_checkpoints, newest_checkpoint, save_checkpoint

SCRIPT = """
import sys, torch
from torch import nn
from torchebm.core import EnergyModel
from torchebm.losses import ContrastiveDivergence
from torchebm.samplers import LangevinDynamics
from torchebm.training import Guard, Remedy, StepSizeControl, Trainer, default_guards

folder, resume, pause, n_steps = sys.argv[1], sys.argv[2] == "resume", float(sys.argv[3]), int(sys.argv[4])
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
def trips(lines):  # twice, as every remedy halves the step size: after half of the run, and soon again
    step, factor = lines[-1]["step"], trainer.recovery.remedy.step_size
    return f"step {step}" if step > n_steps * (0.5 if factor == 1 else 0.6) and factor > 0.3 else None
guard = Guard("trips", trips, remedy=Remedy(learning_rate=0.5, sampler_steps=1.5, step_size=0.5))
trainer = Trainer(loss_fn, ema_decay=0.99, grad_clip_norm=1.0, out_dir=folder, checkpoint_every=37, log_every=7,
                  learning_rate_schedule=lambda k: 1 - k / (2 * n_steps), max_rollbacks=9,
                  guards=[*default_guards(), guard],
                  step_size_control=StepSizeControl(target_displacement=0.3, every=5))
data = torch.randn(500, 2, generator=torch.Generator().manual_seed(1))
print("ready", flush=True)
trainer.fit(data, n_steps, batch_size=64, resume=resume, progress=False)
"""
N_STEPS = 200
FULL_SIZE = os.environ.get("TORCHEBM_FULL_SIZE") == "1"


def run(folder, resume="fresh", pause=0.0, wait=True, n_steps=N_STEPS):
    command = [sys.executable, "-W", "ignore", "-c", SCRIPT, str(folder), resume, str(pause), str(n_steps)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if wait:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    return process


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The run that was never interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    run(folder)
    return folder


def everything(folder, n_steps=N_STEPS):
    """All that a run left, but for the seconds that it took."""
    newest = newest_checkpoint(folder / "checkpoints")
    assert newest.name == f"step-{n_steps:08d}"
    names = [path.name for path in list_checkpoints(folder / "checkpoints")]
    tensors = {f"{f.stem}/{k}": t for f in newest.glob("*.safetensors") for k, t in load_file(f).items()}
    info = json.loads((newest / "checkpoint.json").read_text())
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return tensors, [names, *({k: v for k, v in line.items() if k != "seconds"} for line in [info, *lines])]


def assert_same(one, other, n_steps=N_STEPS):
    (tensors, rest), (other_tensors, other_rest) = everything(one, n_steps), everything(other, n_steps)
    assert tensors.keys() == other_tensors.keys()
    for name in tensors:
        assert torch.equal(tensors[name], other_tensors[name]), name
    assert rest == other_rest


def test_the_run_goes_back_twice(whole):
    events = read_events(whole / "metrics.jsonl")
    assert [(event["event"], event["guard"], event["attempt"]) for event in events] == [
        ("rollback", "trips", 1),
        ("rollback", "trips", 2),
    ]
    assert events[1]["remedy"] == {"learning_rate": 0.25, "sampler_steps": 2.25, "step_size": 0.25}


@pytest.mark.parametrize(("n_kills", "n_steps"), [(50, 2000)] if FULL_SIZE else [(3, N_STEPS)])
def test_killed_at_random_moments_equals_uninterrupted(tmp_path, whole, n_kills, n_steps):
    if n_steps != N_STEPS:
        whole = tmp_path / "whole"
        run(whole, n_steps=n_steps)
    moments, folder, kills = random.Random(0), tmp_path / "killed", 0
    while kills < n_kills:
        process = run(folder, "resume", pause=0.01, wait=False, n_steps=n_steps)
        assert process.stdout.readline() == "ready\n", process.stderr.read()
        time.sleep(moments.uniform(0.0, 1.2))
        assert process.poll() is None, process.stderr.read()  # the run is longer than all that its lives make of it
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        kills += 1
    reached = newest_checkpoint(folder / "checkpoints")
    assert reached is None or reached.name < f"step-{n_steps:08d}"
    run(folder, "resume", n_steps=n_steps)
    assert_same(whole, folder, n_steps)


def test_interrupt_finishes_the_step_and_saves(tmp_path, whole):
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
    assert_same(whole, tmp_path / "stopped")


def test_resume_from_nothing_begins(tmp_path, whole):
    run(tmp_path / "new", "resume")
    assert_same(whole, tmp_path / "new")


@pytest.mark.parametrize("leftover", [".step-00000074.123", "step-00000900"])
def test_incomplete_checkpoints_are_passed_over(tmp_path, leftover):
    save_checkpoint(tmp_path, 200, {"model": {"w": torch.ones(2)}}, {})
    (tmp_path / leftover).mkdir()
    assert newest_checkpoint(tmp_path).name == "step-00000200"
