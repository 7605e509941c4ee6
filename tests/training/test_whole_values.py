"""Whole values as a density: where the run begins, what the network sees, and that samples are whole.

`TORCHEBM_FULL_SIZE=1` trains on the digits with twenty seeds, at the right learning rate and at ten times that: forty
minutes on one core.
"""

import dataclasses
import math
import os
import shutil

import pytest
import torch

from torchebm.core import HarmonicModel
from torchebm.core.copula import CopulaModel
from torchebm.core.random import generator_for, randn
from torchebm.datasets import Data, DataError, load
from torchebm.evaluation import log_likelihood, log_z
from torchebm.training import TrainingDivergedError, load_run, recipe, train_run


@pytest.fixture(scope="module")
def data():
    return load("digits")


def with_settings(settings, **groups):
    changed = {name: dataclasses.replace(getattr(settings, name), **values) for name, values in groups.items()}
    return dataclasses.replace(settings, **changed)


def small(n_steps):
    return with_settings(
        recipe("digits"),
        model={"hidden": (8,)},
        sampler={"n_steps": 3, "n_leapfrog_steps": 2},
        loss={"buffer_size": 40},
        training={"n_steps": n_steps, "batch_size": 32, "checkpoint_every": 2, "warmup_steps": 1},
    )


def test_levels_are_read_off_the_data(data):
    assert recipe("digits").fitted(data).model.levels == (0, 16)
    counts = Data(torch.tensor([[2.0, 5.0], [3.0, 7.0]]), "table", "counts", columns=["a", "b"])
    assert recipe("digits").fitted(counts).model.levels == (0, 7)
    given = with_settings(recipe("digits"), model={"levels": (0, 20)})
    assert given.fitted(data).model.levels == (0, 20)


def test_values_that_are_not_whole_are_refused(data):
    with pytest.raises(DataError, match=r"for whole values, such as grey values from 0 to 255; digits has others"):
        recipe("digits").fitted(dataclasses.replace(data, x=data.x / 16))
    with pytest.raises(ValueError, match=r"recipe.fitted\(data\)"):
        recipe("digits").build_model(data.x)


def test_it_begins_as_a_gaussian_copula_and_that_is_better_than_a_gaussian(data):
    """In bits on dequantised digits: 2.1 for the copula, 2.9 for a Gaussian."""
    settings = with_settings(recipe("digits"), model={"pseudo_count": 0.5}).fitted(data)
    copula = CopulaModel.from_data(HarmonicModel(), data.x, 0, 16, pseudo_count=0.5, noise=0.1)
    model = settings.build_model(data.x)
    x = settings.noisy(data.x, settings.data_noise(data.x), torch.Generator().manual_seed(0))
    assert torch.equal(model(x), copula(x))
    found = log_likelihood(model, x, 32 * math.log(2 * math.pi), bin_width=1.0, check_tails=False)
    flat = x.flatten(1).double()
    gaussian = torch.distributions.MultivariateNormal(flat.mean(0), flat.T.cov())
    assert found.bits_per_dim < -float(gaussian.log_prob(flat).mean()) / 64 / math.log(2) - 0.5


def test_the_noise_is_uniform_within_a_bin(data):
    """A mean over 115,000 values, within 6 standard errors, and its ends."""
    settings = recipe("digits")
    u = settings.noisy(data.x, settings.data_noise(data.x), torch.Generator().manual_seed(0)) - data.x
    assert bool((u.abs() <= 0.5).all())
    assert float(u.abs().max()) > 0.49
    assert abs(float(u.mean())) < 6 / math.sqrt(12 * u.numel())
    assert abs(float(u.square().mean()) - 1 / 12) < 6 * math.sqrt(1 / 180 / u.numel())


def test_a_run_learns_from_copies_of_the_data_each_with_noise_of_its_own(data):
    """In the copula's coordinates that noise is known: that of the bin, and a Gaussian's."""
    settings = recipe("digits").fitted(data)
    model = settings.build_model(data.x)
    x = settings.observations(model, data)
    assert x.shape == (65_536 // 1797 * 1797, 1, 8, 8)
    assert torch.equal(x, settings.observations(model, data))
    assert bool(((x > -0.5) & (x < 16.5)).all())
    first, second = x.split(1797)[:2]
    assert not torch.equal(first, second)
    generator = generator_for(0, "dequantisation")
    z = model.transform.inv(settings.noisy(data.x, settings.data_noise(data.x), generator))
    z = z + 0.1 * randn(z.shape, generator=generator)
    torch.testing.assert_close(first, model.transform(z))
    still = with_settings(settings, loss={"data_noise": 0.0})
    torch.testing.assert_close(still.observations(model, data)[:1797].round(), data.x, rtol=0, atol=1e-4)


def test_samples_are_whole_unless_they_shall_not_be(tmp_path):
    run = train_run("digits", tmp_path / "run", small(2), progress=False)
    x = run.sample(20, generator=torch.Generator().manual_seed(0))
    assert torch.equal(x, x.round())
    assert float(x.min()) >= 0
    assert float(x.max()) <= 16
    raw = dataclasses.replace(run, recipe=with_settings(run.recipe, sampler={"denoise": False}))
    y = raw.sample(20, generator=torch.Generator().manual_seed(0))
    assert not torch.equal(y, y.round())
    assert torch.equal(y.round(), x)


def test_a_run_is_loaded_and_resumed_bit_for_bit(tmp_path):
    whole = train_run("digits", tmp_path / "whole", small(4), progress=False)
    x = whole.data()[1].x[:50] + 0.3
    assert torch.equal(load_run(tmp_path / "whole").model(x), whole.model(x))
    (tmp_path / "parts").mkdir()
    shutil.copytree(tmp_path / "whole" / "checkpoints" / "step-00000002", tmp_path / "parts/checkpoints/step-00000002")
    for name in ("config.json", "metrics.jsonl"):
        shutil.copy(tmp_path / "whole" / name, tmp_path / "parts" / name)
    assert load_run(tmp_path / "parts").step == 2
    resumed = train_run("digits", tmp_path / "parts", small(4), resume=True, progress=False)
    assert resumed.step == 4
    assert torch.equal(resumed.model(x), whole.model(x))


def test_weights_decay():
    """With the same draws, weights are smaller where they decay."""
    data = load("digits")
    norms = []
    for decay in (0.0, 20.0):
        settings = with_settings(small(3).fitted(data), training={"weight_decay": decay})
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = settings.build_model(data.x)
        trainer = settings.build_trainer(model, data.x, out_dir=None, seed=0)
        trainer.fit(settings.observations(model, data), 3, 32, progress=False)
        norms.append(float(torch.nn.utils.parameters_to_vector(trainer.model.parameters()).detach().norm()))
    assert norms[1] < 0.9 * norms[0]


@pytest.mark.skipif(os.environ.get("TORCHEBM_FULL_SIZE") != "1", reason="set TORCHEBM_FULL_SIZE=1")
@pytest.mark.filterwarnings("ignore::torchebm.training.TrainingWarning")
@pytest.mark.parametrize("seed", range(20))
def test_ten_times_the_learning_rate_ends_as_well_or_says_why(seed, tmp_path):
    """Half of the updates, so that a run takes less than a minute."""
    rate = recipe("digits").training.learning_rate

    def bits(name, learning_rate):
        """Held out, a dimension; the copula that the run begins with has 2.1."""
        settings = with_settings(recipe("digits"), training={"n_steps": 3000, "learning_rate": learning_rate})
        run = train_run("digits", tmp_path / name, settings, seed=seed, progress=False)
        generator = torch.Generator().manual_seed(0)
        train, held_out = (x.x + torch.rand(x.x.shape, generator=generator) - 0.5 for x in run.data())
        found = log_z(run.model, data=train, n_particles=200, generator=generator)
        return log_likelihood(run.model, held_out, found, bin_width=1.0, check_tails=False).bits_per_dim

    try:
        hot, stopped = bits("hot", 10 * rate), None
    except TrainingDivergedError as error:
        hot, stopped = math.nan, error
    if stopped is not None:
        assert "guard" in str(stopped)
        assert list((tmp_path / "hot").glob("forensics-*"))
        return
    assert hot < bits("calm", rate) + 0.05
