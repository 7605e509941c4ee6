"""`toy-2d`: what it reads off the data, and what it reaches.

`TORCHEBM_FULL_SIZE=1` trains six densities with three seeds, two of them in other units, and with twenty seeds at the
right learning rate and at ten times that: an hour and a quarter on one core.
"""

import math
import os
from dataclasses import replace

import pytest
import torch

from torchebm.datasets import Data, density
from torchebm.evaluation import energy_distance
from torchebm.training import TrainingDivergedError, recipe
from torchebm.training.recipes import Toy2D
from torchebm.training.recipes.neighbours import neighbourhood

F64 = torch.float64
LIMITS = {
    "two_moons": 0.05,
    "eight_gaussians": 0.05,
    "rings": 0.05,
    "pinwheel": 0.05,
    "twenty_five_gaussians": 0.10,
    "checkerboard": 0.15,
}
full_size = pytest.mark.skipif(os.environ.get("TORCHEBM_FULL_SIZE") != "1", reason="set TORCHEBM_FULL_SIZE=1")


def points(name, n=7000, seed=0, scale=1.0, shift=0.0):
    x = density(name).sample(n, torch.Generator().manual_seed(seed), dtype=torch.float32)
    return Data(scale * x + shift, kind="table", name=name)


def trained(data, seed=0, out_dir=None, **training):
    """The recipe, fitted, and what it trains."""
    settings = recipe("toy-2d").fitted(data)
    settings = replace(settings, training=replace(settings.training, **training))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = settings.build_model(data.x)
    trainer = settings.build_trainer(model, data.x, out_dir=out_dir, seed=seed)
    return settings, trainer.fit(data.x, settings.training.n_steps, settings.training.batch_size, progress=False)


@torch.no_grad()
def divergence(model, truth, scale=1.0, shift=0.0, n=500):
    """KL(truth || model), of data scaled and shifted, in nats.

    The normaliser is a sum over cells: fine ones on the box of the truth and a quarter around it, coarse ones on eight
    times that.
    """
    low, high = truth.bounds.double()
    centre, half = (low + high) / 2, 1.25 * (high - low) / 2

    def energies(x):
        return torch.cat([model((scale * part + shift).float()).double() for part in x.split(20_000)])

    def log_mass(times, n, hole):
        ticks = times * ((torch.arange(n, dtype=F64) + 0.5) / n * 2 - 1)
        grid = torch.cartesian_prod(ticks, ticks)
        grid = grid[grid.abs().amax(1) > hole] * half + centre
        return torch.logsumexp(-energies(grid), 0) + math.log((2 * times / n * scale) ** 2) + half.log().sum()

    log_z = torch.logaddexp(log_mass(1.0, n, 0.0), log_mass(8.0, 320, 1.0))
    x = truth.sample(100_000, torch.Generator().manual_seed(99), dtype=F64)
    return float((truth.log_prob(x) - math.log(scale**2) + energies(x)).mean() + log_z)


# what it reads off the data -------------------------------------------------------------------------------------------


def leave_one_out(x, h):
    """Its mean logarithm, one point after the other."""
    n, d = x.shape
    total = 0.0
    for i in range(n):
        others = torch.cat([x[:i], x[i + 1 :]])
        kernels = torch.exp(-(others - x[i]).square().sum(1) / (2 * h**2)) / (2 * math.pi * h**2) ** (d / 2)
        total += math.log(float(kernels.mean()))
    return total / n


@pytest.mark.parametrize("d", [1, 2, 3])
def test_the_scale_is_the_best_bandwidth_and_tells_the_entropy(d, generator):
    x = torch.randn(150, d, dtype=F64, generator=generator)
    x[:70] = 0.05 * x[:70] + 3
    scale, entropy = neighbourhood(x)
    assert abs(entropy + leave_one_out(x, scale)) < 1e-9
    assert leave_one_out(x, scale) > max(leave_one_out(x, 0.97 * scale), leave_one_out(x, 1.03 * scale))


@pytest.mark.parametrize("name", LIMITS)
def test_the_entropy_of_the_densities_is_found(name):
    truth = density(name)
    x = truth.sample(4000, torch.Generator().manual_seed(1), dtype=F64)
    assert -0.05 < neighbourhood(x).entropy - truth.entropy < 0.25


def test_repeated_points_and_units_do_not_matter(generator):
    x = torch.randn(300, 2, generator=generator)
    scale, entropy = neighbourhood(x)
    twice = neighbourhood(torch.cat([x, x]))
    assert twice == pytest.approx((scale, entropy), rel=1e-6)
    other = neighbourhood(1000 * x)
    assert other.scale == pytest.approx(1000 * scale, rel=1e-4)
    assert other.entropy == pytest.approx(entropy + 2 * math.log(1000), rel=1e-4)


def test_too_few_points_are_refused():
    with pytest.raises(ValueError, match="three different points at least; got 2"):
        neighbourhood(torch.tensor([[0.0, 0.0], [1.0, 1.0]]).repeat(50, 1))


@pytest.mark.parametrize(("scale", "shift"), [(100.0, 7.0), (0.01, -3.0)])
def test_settings_do_not_depend_on_the_units(scale, shift):
    own, other = (Toy2D().fitted(points("rings", 2000, **units)) for units in ({}, {"scale": scale, "shift": shift}))
    assert other.sampler.step_size == pytest.approx(own.sampler.step_size, rel=1e-2)
    assert other.model.highest_frequency == pytest.approx(own.model.highest_frequency, rel=1e-2)
    assert other.sampler.n_proposals == own.sampler.n_proposals


def test_settings_follow_the_data():
    coarse, fine = (Toy2D().fitted(points(name, 4000)) for name in ("eight_gaussians", "twenty_five_gaussians"))
    assert fine.sampler.step_size < 0.6 * coarse.sampler.step_size
    assert fine.model.highest_frequency > 1.6 * coarse.model.highest_frequency
    assert fine.sampler.n_proposals >= 2 * coarse.sampler.n_proposals
    assert Toy2D().fitted(points("two_moons", 20)).sampler.step_size > 0


def test_settings_that_are_given_stay():
    given = Toy2D()
    given = replace(given, model=replace(given.model, highest_frequency=3.0),
                    sampler=replace(given.sampler, step_size=0.1, n_proposals=2))  # fmt: skip
    assert given.fitted(points("rings", 500)) == given
    assert Toy2D.from_values(given.values()) == given


def test_what_is_not_fitted_or_not_planar_is_refused():
    with pytest.raises(ValueError, match=r"take what recipe.fitted\(data\) returns"):
        Toy2D().build_model(torch.randn(50, 2))
    with pytest.raises(ValueError, match="for data of kind planar"):
        Toy2D().fitted(Data(torch.randn(50, 3), kind="table", name="three columns"))


# what it reaches ------------------------------------------------------------------------------------------------------


def test_a_short_training_learns_two_moons():
    """A seventh of the updates, held to a looser limit; samples are as near to the data as draws of the truth."""
    data = points("two_moons")
    settings, model = trained(data, n_steps=300)
    assert divergence(model, density("two_moons"), n=200) < 0.08
    drawn = settings.build_sampler(model).sample(n_samples=1000, n_steps=60, generator=torch.Generator().manual_seed(0))
    assert energy_distance(drawn, data.x[:1000]) < 0.05


@full_size
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("name", LIMITS)
def test_every_density_is_learned(name, seed):
    """And chains of a hundred times the length give samples that are no worse."""
    data, truth = points(name, seed=seed), density(name)
    settings, model = trained(data, seed)
    assert divergence(model, truth) < LIMITS[name]
    sampler, generator = settings.build_sampler(model), torch.Generator().manual_seed(seed)
    x, state = sampler.sample(n_samples=1000, n_steps=100, generator=generator, return_state=True)
    held_out = points(name, 10_000, seed=1000).x
    short = energy_distance(x, held_out)
    longer = energy_distance(sampler.sample(state=state, n_steps=9900, generator=generator), held_out)
    floor = energy_distance(points(name, 1000, seed=2000).x, held_out)
    assert longer < max(2 * short, 5 * floor)


@full_size
@pytest.mark.parametrize(("scale", "shift"), [(100.0, 7.0), (0.01, -3.0)])
@pytest.mark.parametrize("name", ["rings", "twenty_five_gaussians"])
def test_units_do_not_matter(name, scale, shift):
    _, model = trained(points(name, scale=scale, shift=shift))
    assert divergence(model, density(name), scale, shift) < LIMITS[name]


@full_size
@pytest.mark.parametrize("seed", range(4))
def test_a_density_that_the_guards_were_not_made_on_is_left_alone(seed):
    """A spiral whose chains take longer to settle than any of the six; a warning would be an error."""
    generator = torch.Generator().manual_seed(seed)
    t = 9 * torch.rand(7000, generator=generator).sqrt()
    x = torch.stack([t * t.cos(), t * t.sin()], 1) + 0.1 * torch.randn(7000, 2, generator=generator)
    trained(Data(x, kind="table", name="spiral"), seed)


@full_size
@pytest.mark.filterwarnings("ignore::torchebm.training.TrainingWarning")
@pytest.mark.parametrize("seed", range(20))
def test_ten_times_the_learning_rate_ends_as_well_or_says_why(seed, tmp_path):
    name = list(LIMITS)[seed % len(LIMITS)]
    data, truth = points(name, seed=seed), density(name)
    rate = recipe("toy-2d").training.learning_rate
    model = stopped = None
    try:
        _, model = trained(data, seed, tmp_path, learning_rate=10 * rate)
    except TrainingDivergedError as error:
        stopped = error
    if stopped is not None:
        assert "guard" in str(stopped)
        assert list(tmp_path.glob("forensics-*"))
        return
    assert divergence(model, truth) < 1.5 * divergence(trained(data, seed)[1], truth)


@pytest.mark.parametrize(
    ("swings", "n_lines", "by"),
    [
        (1.4, 10, None),
        (1.5, 10, "lasting fluctuation"),
        (1.25, 19, None),
        (1.25, 20, "slight fluctuation"),
        (1.15, 20, None),
    ],
)
def test_a_learning_rate_that_is_too_high_shows_once_chains_have_settled(swings, n_lines, by):
    """With the own rate 1.1 to 1.34 over 500 updates, and 1.02 to 1.16 after 1,000; with ten times that, above 1.2."""
    figures = [3.0, 2.5, 1.6, *[swings] * (n_lines - 3)]
    lines = [{"step": 50 * (i + 1), "gap_fluctuation": figure} for i, figure in enumerate(figures)]
    guards = [guard for guard in recipe("toy-2d").guards() if "fluctuation" in guard.name]
    assert [guard.name for guard in guards if guard.reason(lines) is not None] == ([by] if by else [])


def test_every_remedy_leaves_a_fifth_of_the_rate():
    guards = recipe("toy-2d").guards()
    assert {guard.remedy.learning_rate for guard in guards} == {0.2}
    assert [guard.name for guard in guards if guard.until_rollback] == ["lasting fluctuation", "slight fluctuation"]
