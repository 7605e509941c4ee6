"""What a run writes down: which states a trajectory keeps, what the diagnostics say of them, and files."""

import sys

import numpy as np
import pytest
import torch
from torch.distributions.transforms import AffineTransform, ExpTransform

from torchebm.core import EnergyModel, HarmonicModel, TransformedModel

X = torch.ones(3, 2)
SKEWED = EnergyModel(lambda x: (x + torch.exp(-x)).sum(-1))
MODELS = {
    "closed form": HarmonicModel(),
    "autograd": SKEWED,
    "affine": TransformedModel(HarmonicModel(), AffineTransform(torch.tensor([1.0]), torch.tensor([[2.0, 0.1]]))),
    "exp": TransformedModel(HarmonicModel(), ExpTransform()),
}


def run(sampler, generator, **options):
    return sampler.sample(X, return_trajectory=True, generator=generator, **options)


@pytest.mark.parametrize(("n_steps", "thin"), [(12, 1), (12, 3), (11, 3), (12, 12), (12, 7)])
def test_draw_k_is_the_state_after_k_plus_1_times_thin_transitions(case, n_steps, thin, seeded):
    sampler = case.make(HarmonicModel())
    every = run(sampler, seeded(), n_steps=n_steps)
    one_by_one = [sampler.sample(X, n_steps=k, generator=seeded()) for k in range(1, n_steps + 1)]
    assert torch.equal(every, torch.stack(one_by_one, 1))
    kept = run(sampler, seeded(), n_steps=n_steps, thin=thin)
    assert kept.shape == (3, n_steps // thin, 2)
    assert torch.equal(kept, every[:, thin - 1 :: thin][:, : n_steps // thin])


def test_warmup_is_not_returned(case, seeded):
    lengths = {"path_length", "decoherence_length"} & set(case.scheduled)
    one_step = dict.fromkeys(lengths, lambda step: 0.1)  # the number of steps may vary with the transition
    sampler = case.make(HarmonicModel(), **one_step)
    for name in {"target_acceptance", "adapt_mass", "desired_energy_var"} & set(sampler.settings):
        setattr(sampler, name, None)  # nothing to tune: the first of many transitions
    assert torch.equal(run(sampler, seeded(), n_steps=5, n_warmup=7), run(sampler, seeded(), n_steps=12)[:, 7:])


def test_recording_does_not_change_the_chains(case, seeded):
    plain = case.make(SKEWED).sample(X, n_steps=9, generator=seeded())
    trajectory, _ = run(case.make(SKEWED), seeded(), n_steps=9, return_diagnostics=True)
    assert torch.equal(trajectory[:, -1], plain)


@pytest.mark.parametrize("thin", [1, 4])
@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_diagnostics_describe_the_trajectory(case, model, thin, generator):
    trajectory, noted = run(case.make(model), generator, n_steps=8, thin=thin, return_diagnostics=True)
    expected = {"energy", "diverging", "mean", "var"}
    expected |= {"acceptance_rate"} if case.can_reject else set()
    expected |= {"step_size"} if "step_size" in case.scheduled else set()
    expected |= {*case.counts, *case.rates}
    assert set(noted) == expected
    energy = model(trajectory.flatten(0, 1)).view(3, -1)
    torch.testing.assert_close(noted["energy"], energy, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(noted["mean"], trajectory.mean(0))
    torch.testing.assert_close(noted["var"], trajectory.var(0, correction=0))
    assert not noted["diverging"].any()
    assert all(noted[name].shape[:2] == (3, 8 // thin) for name in expected - {"mean", "var"})
    assert all(noted[name].ndim == 2 for name in expected - {"mean", "var", *case.rates})


def test_rates_are_averaged_and_flags_collected_over_what_thin_leaves_out(exact, seeded):
    sampler = exact.make(lambda x: torch.where(x < 1.5, 0.5 * x.square(), torch.nan).sum(-1))
    _, every = run(sampler, seeded(), n_steps=60, return_diagnostics=True)
    _, kept = run(sampler, seeded(), n_steps=60, thin=4, return_diagnostics=True)
    torch.testing.assert_close(kept["acceptance_rate"], every["acceptance_rate"].view(3, 15, 4).mean(-1))
    assert torch.equal(kept["diverging"], every["diverging"].view(3, 15, 4).any(-1))
    assert every["diverging"].any()
    assert 0 <= every["acceptance_rate"].min() < every["acceptance_rate"].max() <= 1


def test_step_size_is_the_one_that_made_the_draw(case, generator):
    if "step_size" not in case.scheduled:
        return
    sampler = case.make(HarmonicModel(), step_size=lambda k: 0.1 + k)
    _, noted = run(sampler, generator, n_steps=7, thin=3, return_diagnostics=True)
    torch.testing.assert_close(noted["step_size"], torch.tensor([[2.1, 5.1]]).expand(3, 2))


def test_diagnostics_without_a_trajectory_and_the_order_of_what_is_returned(case, seeded):
    sampler = case.make(HarmonicModel())
    x, noted, state = sampler.sample(X, n_steps=4, return_diagnostics=True, return_state=True, generator=seeded())
    trajectory, noted_with_it = run(sampler, seeded(), n_steps=4, return_diagnostics=True)
    assert torch.equal(x, trajectory[:, -1])
    assert torch.equal(x, state.x)
    assert noted.keys() == noted_with_it.keys()
    for name in noted:
        torch.testing.assert_close(noted[name], noted_with_it[name], rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize(("n_chains", "n_steps"), [(3, 0), (0, 4), (0, 0)])
def test_no_chains_or_no_steps(case, n_chains, n_steps, generator):
    sampler, x = case.make(SKEWED), torch.ones(n_chains, 2)
    full = run(sampler, generator, n_steps=1, return_diagnostics=True)[1]
    options = {"n_steps": n_steps, "generator": generator}
    trajectory, noted = sampler.sample(x, return_trajectory=True, return_diagnostics=True, **options)
    assert trajectory.shape == (n_chains, n_steps, 2)
    reported = {*case.counts, *case.rates}  # known from the first transition on
    assert noted.keys() | reported == full.keys()
    for name, t in noted.items():
        assert t.shape == ((n_steps, 2) if name in ("mean", "var") else (n_chains, n_steps)), name
    assert torch.equal(sampler.sample(x, **options), x)
    assert sampler.sample(dim=2, n_samples=n_chains, **options).shape == (n_chains, 2)


# files ----------------------------------------------------------------------------------------------------------------


def read(path):
    if path.suffix == ".npy":
        return torch.from_numpy(np.load(path))
    zarr = pytest.importorskip("zarr")
    return torch.from_numpy(zarr.open_array(path, mode="r")[:])


@pytest.mark.parametrize("suffix", [".npy", ".zarr"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("n_steps", [1, 130])  # more than one buffer
@pytest.mark.parametrize("event", [(2,), (1, 2, 2), ()], ids=str)
def test_a_file_holds_what_memory_would(case, event, n_steps, dtype, suffix, tmp_path, seeded):
    if suffix == ".zarr":
        pytest.importorskip("zarr")
    sampler, x, path = case.make(HarmonicModel()), torch.ones(3, *event, dtype=dtype), tmp_path / f"chains{suffix}"
    last, noted = sampler.sample(x, n_steps=n_steps, trajectory_out=path, return_diagnostics=True, generator=seeded())
    trajectory = sampler.sample(x, n_steps=n_steps, return_trajectory=True, generator=seeded())
    assert torch.equal(read(path), trajectory.to(torch.promote_types(dtype, torch.float32)))
    assert torch.equal(last, trajectory[:, -1])
    assert noted["energy"].shape == (3, n_steps)


def test_a_file_is_in_the_users_units_and_thinned(case, tmp_path, seeded):
    model = MODELS["affine"]
    case.make(model).sample(X, n_steps=7, thin=2, trajectory_out=str(tmp_path / "chains.npy"), generator=seeded())
    assert torch.equal(read(tmp_path / "chains.npy"), run(case.make(model), seeded(), n_steps=7, thin=2))


@pytest.mark.parametrize("suffix", [".npy", ".zarr"])
@pytest.mark.parametrize(("n_chains", "n_steps"), [(3, 0), (0, 4)])
def test_files_without_draws(case, n_chains, n_steps, suffix, tmp_path):
    if suffix == ".zarr":
        pytest.importorskip("zarr")
    path = tmp_path / f"chains{suffix}"
    case.make(HarmonicModel()).sample(torch.ones(n_chains, 2), n_steps=n_steps, trajectory_out=path)
    assert read(path).shape == (n_chains, n_steps, 2)


def test_what_exists_is_not_overwritten(case, counting_model, tmp_path):
    path = tmp_path / "chains.npy"
    path.write_text("precious")
    with pytest.raises(FileExistsError, match="exists: remove it or write the trajectory elsewhere"):
        case.make(counting_model).sample(X, n_steps=3, trajectory_out=path)
    assert path.read_text() == "precious"
    assert counting_model.energies + counting_model.gradients <= 1


def test_zarr_missing_says_what_to_install(case, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "zarr", None)
    with pytest.raises(ImportError, match=r'pip install "torchebm\[arviz\]"'):
        case.make(HarmonicModel()).sample(X, n_steps=3, trajectory_out=tmp_path / "chains.zarr")


def test_progress_is_shown_only_if_asked_for(case, capsys):
    case.make(HarmonicModel()).sample(X, n_steps=3)
    assert capsys.readouterr().err == ""
    case.make(HarmonicModel()).sample(X, n_steps=3, n_warmup=2, progress=True)
    shown = capsys.readouterr().err
    assert "5/5" in shown
    assert case.cls.__name__ in shown
