"""Ctrl-C: what there is comes back whole, and the state continues it to the same bits."""

import signal
import threading

import numpy as np
import pytest
import torch

from torchebm.core import BaseModel, HarmonicModel, SamplingInterruptedWarning
from torchebm.losses import ContrastiveDivergence
from torchebm.samplers import LangevinDynamics

EVERYTHING = {"return_trajectory": True, "return_diagnostics": True, "return_state": True}


class Pressed(BaseModel):
    """A standard normal that is interrupted while it is evaluated for the n-th time."""

    def __init__(self, at, times=1):
        super().__init__()
        self.left, self.times = at, times

    def forward(self, x):
        self.left -= 1
        if self.left == 0:
            for _ in range(self.times):
                signal.raise_signal(signal.SIGINT)
        return 0.5 * x.square().flatten(1).sum(1)


def run(case, model, n_steps, generator, **options):
    return case.make(model).sample(
        torch.ones(3, 2) if "state" not in options else None, n_steps=n_steps, generator=generator, **options
    )


@pytest.mark.parametrize("thin", [1, 3])
def test_an_interrupted_run_and_its_continuation_are_the_whole_run(case, thin, seeded):
    whole, noted, end = run(case, Pressed(-1), 12, seeded(), thin=thin, **EVERYTHING)
    generator = seeded()
    with pytest.warns(SamplingInterruptedWarning, match="of 12 transitions") as warned:
        first, noted_first, state = run(case, Pressed(6), 12, generator, thin=thin, **EVERYTHING)
    assert warned[0].filename == __file__
    done = state.step
    assert 1 <= done < 12
    assert first.shape == (3, done // thin, 2)
    assert f"after {done} of 12" in str(warned[0].message)
    for name, kept in noted_first.items():
        n = done // thin
        expected = noted[name][:n] if name in ("mean", "var") else noted[name][:, :n]
        torch.testing.assert_close(kept, expected, rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(first, whole[:, : done // thin], rtol=0, atol=0)
    last, state = run(case, Pressed(-1), 12 - done, generator, state=state, return_state=True)
    assert torch.equal(last, whole[:, -1])
    assert state.step == end.step


@pytest.mark.parametrize("suffix", [".npy", ".zarr"])
def test_a_file_ends_where_the_run_did(case, suffix, tmp_path, seeded):
    if suffix == ".zarr":
        pytest.importorskip("zarr")
    path = tmp_path / f"chains{suffix}"
    whole = run(case, Pressed(-1), 12, seeded(), return_trajectory=True)
    with pytest.warns(SamplingInterruptedWarning):
        _, state = run(case, Pressed(6), 12, seeded(), trajectory_out=path, return_state=True)
    kept = np.load(path) if suffix == ".npy" else pytest.importorskip("zarr").open_array(path, mode="r")[:]
    assert torch.equal(torch.from_numpy(kept), whole[:, : state.step])
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_a_run_that_fails_leaves_no_file_that_looks_complete(tmp_path):
    def fails(x):
        raise OSError("the data set is gone")

    model, path = Pressed(-1), tmp_path / "chains.npy"
    sampler = LangevinDynamics(model)
    model.forward = lambda x: fails(x) if model.left < -3 else Pressed.forward(model, x)
    with pytest.raises(OSError, match="the data set is gone"):
        sampler.sample(torch.ones(3, 2), trajectory_out=path)
    assert [p.name for p in tmp_path.iterdir()] == ["chains.npy.partial"]
    sampler = LangevinDynamics(HarmonicModel())
    sampler.sample(torch.ones(3, 2), n_steps=4, trajectory_out=path)
    assert [p.name for p in tmp_path.iterdir()] == ["chains.npy"]


def test_nothing_to_return_nothing_is_swallowed(case, generator):
    """Only the last state was asked for: a caller could not tell it from that of a whole run."""
    with pytest.raises(KeyboardInterrupt):
        run(case, Pressed(6), 12, generator)


def test_an_interrupted_warm_up_leaves_the_sampler_as_it_was(case, generator):
    sampler = case.make(Pressed(30))
    before = {name: schedule.value(0) for name, schedule in sampler.schedulers.items()}
    with pytest.raises(KeyboardInterrupt):
        sampler.sample(torch.ones(3, 2), n_steps=9, n_warmup=50, generator=generator, **EVERYTHING)
    assert {name: schedule.value(0) for name, schedule in sampler.schedulers.items()} == before
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_the_second_press_raises_at_once():
    with pytest.raises(KeyboardInterrupt):
        LangevinDynamics(Pressed(6, times=2)).sample(torch.ones(3, 2), **EVERYTHING)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_the_handler_of_another_is_left_alone():
    heard = []
    before = signal.signal(signal.SIGINT, lambda *_: heard.append(1))
    try:
        trajectory, *_ = LangevinDynamics(Pressed(6)).sample(torch.ones(3, 2), n_steps=12, **EVERYTHING)
    finally:
        signal.signal(signal.SIGINT, before)
    assert heard == [1]
    assert trajectory.shape[1] == 12


def test_runs_in_other_threads_are_as_they_were():
    results = []
    work = threading.Thread(
        target=lambda: results.append(LangevinDynamics(HarmonicModel()).sample(torch.ones(3, 2), **EVERYTHING))
    )
    work.start()
    work.join()
    assert results[0][0].shape == (3, 100, 2)


def test_training_is_not_kept_from_stopping():
    model = Pressed(6)
    loss = ContrastiveDivergence(model, LangevinDynamics(model), k_steps=12)
    with pytest.raises(KeyboardInterrupt):
        loss(torch.ones(3, 2))
