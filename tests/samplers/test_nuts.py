"""The no-U-turn sampler against a reference that keeps whole trajectories, and what its trees promise."""

import math
from itertools import pairwise

import numpy as np
import pytest
import scipy.stats
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from torchebm.core import BaseModel, FunnelModel, GaussianModel, HarmonicModel, Target
from torchebm.samplers import NoUTurnSampler, SamplingDivergenceWarning

F64 = torch.float64
N = 24
EVENTS = {"vector": (3,), "image": (1, 2, 2), "scalar": ()}
EVERYTHING = {"return_trajectory": True, "return_diagnostics": True}
TEMPERATURES = {"one": 1.0, "a chain": torch.linspace(0.5, 3.0, N, dtype=F64)}


class Skewed(BaseModel):
    """E = sum(x + exp(-x)) + (sum x)² / 20."""

    def forward(self, x):
        x = x.reshape(len(x), -1)
        return (x + torch.exp(-x)).sum(1) + x.sum(1).square() / 20


def energy_of(x):
    return (x + np.exp(-x)).sum() + x.sum() ** 2 / 20


def gradient_of(x):
    return 1 - np.exp(-x) + x.sum() / 10


# the reference --------------------------------------------------------------------------------------------------------


class Reference:
    """One transition of one chain, in NumPy, with nothing kept but the list of its points.

    A point is (x, p, H). Sub-trees are found and checked by slicing, sums are taken anew each time, and the next state
    is chosen from the top down once the trajectory is complete.
    """

    def __init__(self, h, inverse_mass, temperature=1.0, max_tree_depth=10, cross_checks=True):
        self.h, self.inverse_mass, self.temperature = h, inverse_mass, temperature
        self.max_tree_depth, self.cross_checks = max_tree_depth, cross_checks

    def point(self, x, p):
        with np.errstate(over="ignore", invalid="ignore"):
            return x, p, energy_of(x) / self.temperature + 0.5 * p @ self.inverse_mass @ p

    def leapfrog(self, x, p, sign):
        h = sign * self.h
        with np.errstate(over="ignore", invalid="ignore"):
            p = p - 0.5 * h * gradient_of(x) / self.temperature
            x = x + h * self.inverse_mass @ p
            return self.point(x, p - 0.5 * h * gradient_of(x) / self.temperature)

    def onward(self, first, last, momenta):
        rho = sum(momenta)
        return (self.inverse_mass @ first) @ rho > 0 and (self.inverse_mass @ last) @ rho > 0

    def turns(self, one, other):
        """Of two neighbouring lists of points, in the order of time."""
        p, q = [point[1] for point in one], [point[1] for point in other]
        if not self.onward(p[0], q[-1], p + q):
            return True
        checks = self.onward(p[0], q[0], [*p, q[0]]) and self.onward(p[-1], q[-1], [p[-1], *q])
        return self.cross_checks and not checks

    def sound(self, point):
        return np.isfinite(point[2]) and point[2] - self.start[2] <= 1000

    def valid(self, points):
        """Of a list of 2^k points in the order of the walk, forwards in time or backwards."""
        if len(points) == 1:
            return self.sound(points[0])
        half = len(points) // 2
        one, other = points[:half], points[half:]
        if not (self.valid(one) and self.valid(other)):
            return False
        return not self.turns(one, other)  # a walk backwards swaps the two cross checks

    def weight(self, points):
        return sum(math.exp(self.start[2] - point[2]) for point in points)

    def choose(self, points, u):
        if len(points) == 1:
            return points[0]
        half = len(points) // 2
        one, other = points[:half], points[half:]
        level = len(points).bit_length() - 2
        share = self.weight(other) / (self.weight(one) + self.weight(other))
        return self.choose(other if 1 - u[level] < share else one, u)

    def transition(self, x, p, directions, u):
        self.start = self.point(x, p)
        trajectory, chosen, halves = [self.start], self.start, []
        rates, diverging, depth = [], False, 0
        while depth < self.max_tree_depth:
            sign = -1 if directions[depth] < 0.5 else 1
            at, new, valid = trajectory[0 if sign < 0 else -1], [], True
            while valid and len(new) < 2**depth:
                at = self.leapfrog(*at[:2], sign)
                new.append(at)
                diverging = diverging or not self.sound(at)
                rates.append(min(1.0, math.exp(min(self.start[2] - at[2], 0))) if np.isfinite(at[2]) else 0.0)
                sizes = [2**k for k in range(depth + 1) if len(new) % 2**k == 0]
                valid = all(self.valid(new[-size:]) for size in sizes)  # of every sub-tree that is complete by now
            if not valid:
                break
            if 1 - u[depth] < self.weight(new) / self.weight(trajectory):
                chosen = self.choose(new, u)
            halves.append((self.weight(trajectory), new))
            pair = (new[::-1], trajectory) if sign < 0 else (trajectory, new)
            trajectory, depth = pair[0] + pair[1], depth + 1
            if self.turns(*pair):
                break
        self.trajectory, self.halves = trajectory, halves
        return chosen[0], sum(rates) / len(rates), diverging, len(rates), depth


def masses(d, generator):
    """Each kind as the user gives it, and as a matrix."""
    diagonal = torch.rand(d, dtype=F64, generator=generator) + 0.5
    root = torch.randn(d, d, dtype=F64, generator=generator)
    dense = root @ root.T + 0.5 * torch.eye(d, dtype=F64)
    return {"identity": (None, torch.eye(d, dtype=F64)), "scalar": (1.7, 1.7 * torch.eye(d, dtype=F64)),
            "diagonal": (diagonal, torch.diag(diagonal)), "dense": (dense, dense)}  # fmt: skip


def setup(sampler, x, generator):
    target = Target(sampler.model)
    noise = tuple(buffer[0] for buffer in sampler.noise(x, 1))
    sampler.draw(noise, generator)
    return target, sampler.init(x, target, generator), noise


def both(h, event, generator, kind="identity", temperature=1.0, max_tree_depth=10, **reference):
    """State, new state and info of N chains, and what the reference makes of them, chain by chain."""
    d = math.prod(event)
    mass, M = masses(d, generator)[kind]
    sampler = NoUTurnSampler(
        Skewed(), max_tree_depth=max_tree_depth, mass=mass.view(event) if kind == "diagonal" else mass
    )
    x = torch.randn(N, *event, dtype=F64, generator=generator)
    target, state, (xi, u) = setup(sampler, x, generator)
    new, info = sampler.step(state, (xi, u), target, temperature=temperature, step_size=h)
    root, inverse, expected = torch.linalg.cholesky(M), torch.linalg.inv(M).numpy(), []
    for i in range(N):
        T = float(temperature[i]) if isinstance(temperature, torch.Tensor) else temperature
        one = Reference(h, inverse, T, max_tree_depth, **reference)
        p = root @ xi[i].flatten()
        expected.append(one.transition(x[i].flatten().numpy(), p.numpy(), *u[i].numpy()))
    return state, new, info, expected


def compare(new, info, expected):
    x, rate, diverging, n_steps, depth = zip(*expected, strict=True)
    torch.testing.assert_close(new.x.reshape(N, -1), torch.from_numpy(np.stack(x)), rtol=1e-10, atol=1e-10)
    energy, gradient = Skewed().energy_and_gradient(new.x)
    torch.testing.assert_close(new.energy, energy, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(new.gradient, gradient, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(info.acceptance_rate, torch.tensor(rate, dtype=F64), rtol=1e-9, atol=1e-12)
    assert info.diverging.tolist() == list(diverging)
    assert info.n_steps.tolist() == list(n_steps)
    assert info.tree_depth.tolist() == list(depth)


@pytest.mark.parametrize("kind", ["identity", "scalar", "diagonal", "dense"])
@pytest.mark.parametrize("temperature", TEMPERATURES.values(), ids=TEMPERATURES)
@pytest.mark.parametrize("event", EVENTS.values(), ids=EVENTS)
def test_reference_by_event_temperature_and_mass(event, temperature, kind, generator):
    state, new, info, expected = both(0.35, event, generator, kind, temperature)
    compare(new, info, expected)
    assert (new.x != state.x).any()
    assert info.tree_depth.max() > 1


@pytest.mark.parametrize("h", [0.02, 0.11, 0.7, 1.3, 2.2, 4.0])
def test_reference_by_step_size(h, generator):
    _, new, info, expected = both(h, (3,), generator)
    compare(new, info, expected)
    assert h > 1 or not info.diverging.any()
    assert h < 4 or info.diverging.any()


@pytest.mark.parametrize("max_tree_depth", [1, 2, 3, 4, 6])
@pytest.mark.parametrize("h", [0.05, 0.6])
def test_reference_by_depth(h, max_tree_depth, generator):
    _, new, info, expected = both(h, (3,), generator, max_tree_depth=max_tree_depth)
    compare(new, info, expected)
    assert info.tree_depth.max() <= max_tree_depth


def test_the_cross_checks_find_turns_that_the_ends_do_not_show(seeded):
    """With them some trajectories are shorter; the reference without them is another sampler."""
    differ = 0
    for key in range(5):
        _, _, info, expected = both(1.5, (3,), seeded(key), cross_checks=False)
        shorter = info.n_steps < torch.tensor([steps for *_, steps, _ in expected])
        longer = info.n_steps > torch.tensor([steps for *_, steps, _ in expected])
        assert not longer.any()
        differ += int(shorter.sum())
    assert differ > 0


def test_one_uniform_a_level_draws_each_point_with_its_probability(generator):
    """Momentum and directions fixed, choices random: a chi-square test that fails once in a million seeds.

    The probability of a point: that its doubling was taken and none after it, times its share of that doubling.
    """
    n, h, mass = 200_000, 0.8, torch.tensor([100.0, 0.4, 1.0], dtype=F64)  # a long way with weights from 0.1 to 1
    sampler = NoUTurnSampler(Skewed(), max_tree_depth=4, mass=mass)
    x = torch.tensor([[0.3, -0.4, 1.0]], dtype=F64).expand(n, 3).contiguous()
    target, state, (xi, u) = setup(sampler, x, generator)
    xi[:] = torch.tensor([1.0, -0.7, 0.4], dtype=F64)
    u[:, 0] = torch.tensor([0.7, 0.2, 0.1, 0.9], dtype=F64)
    with torch.no_grad():
        new, info = sampler.step(state, (xi, u), target, step_size=h)
    reference = Reference(h, np.diag(1 / mass.numpy()), max_tree_depth=4)
    depth = reference.transition(x[0].numpy(), (xi[0] * mass.sqrt()).numpy(), *u[0].numpy())[-1]
    assert depth == 4
    assert (info.tree_depth == depth).all()
    points, probabilities, left = [], [], 1.0
    for before, half in reversed(reference.halves):
        taken = min(1.0, reference.weight(half) / before)
        points += half
        probabilities += [left * taken * reference.weight([point]) / reference.weight(half) for point in half]
        left *= 1 - taken
    points.append(reference.start)
    probabilities.append(left)
    distances = torch.cdist(new.x, torch.from_numpy(np.stack([point[0] for point in points])))
    assert distances.min(1).values.max() < 1e-6
    counts = torch.bincount(distances.argmin(1), minlength=16).numpy()
    expected = n * np.array(probabilities)
    possible = expected > 0  # none is left to what lies before a doubling that is surely taken
    assert possible.sum() > 10
    assert expected[possible].min() > 100
    assert counts[~possible].sum() == 0
    assert scipy.stats.chisquare(counts[possible], expected[possible]).pvalue > 1e-6


# lockstep -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("h", [0.1, 0.5, 3.0])
@pytest.mark.parametrize("kind", ["identity", "diagonal", "dense"])
def test_chains_together_are_chains_one_at_a_time(h, kind, generator):
    mass = masses(3, generator)[kind][0]
    sampler = NoUTurnSampler(Skewed(), mass=mass)
    x = torch.randn(N, 3, dtype=F64, generator=generator)
    target, state, noise = setup(sampler, x, generator)
    new, info = sampler.step(state, noise, target, step_size=h)
    assert info.n_steps.unique().numel() > 1
    for i in range(N):
        one = slice(i, i + 1)
        alone, noted = sampler.step(type(state)(*(leaf[one] for leaf in state)), tuple(z[one] for z in noise), target,
                                    step_size=h)  # fmt: skip
        for leaf, expected in zip((*alone, *noted), (*new, *info), strict=True):
            torch.testing.assert_close(leaf, expected[one], rtol=1e-12, atol=1e-12)


def test_a_step_size_a_chain(generator):
    sampler = NoUTurnSampler(Skewed())
    x = torch.randn(3, 2, dtype=F64, generator=generator)
    target, state, noise = setup(sampler, x, generator)
    h = torch.tensor([0.1, 0.3, 0.9], dtype=F64)
    new, _ = sampler.step(state, noise, target, step_size=h)
    for i in range(3):
        alone, _ = sampler.step(state, noise, target, step_size=float(h[i]))
        torch.testing.assert_close(new.x[i], alone.x[i], rtol=1e-12, atol=1e-12)


def test_finished_chains_stand_still(generator):
    seen = []

    class Spied(BaseModel):
        def forward(self, x):
            seen.append(x.detach().clone())
            return 0.5 * x.square().sum(1) * torch.tensor([1.0, 1.0, 1e-4], dtype=F64)

    sampler = NoUTurnSampler(Spied())
    x = torch.tensor([[1.0], [0.1], [0.0]], dtype=F64)
    target, state, noise = setup(sampler, x, generator)
    seen.clear()
    _, info = sampler.step(state, noise, target, step_size=0.3)
    assert len(seen) == info.n_steps.max() > info.n_steps[:2].max()
    for i in range(3):
        walked = [point[i] for point in seen]
        n = int(info.n_steps[i])
        assert all(not torch.equal(a, b) for a, b in pairwise(walked[:n]))
        stops = {float(point) for point in walked[n:]}
        assert len(stops) <= 2 * (len(walked).bit_length() - n.bit_length() + 1)  # at one of its ends, each doubling


@pytest.mark.parametrize("h", [0.3, 1.6])
@pytest.mark.parametrize("n_chains", [1, 7])
def test_gradients_are_those_reported(n_chains, h, counting_model, generator):
    sampler = NoUTurnSampler(counting_model, step_size=h)
    x = torch.randn(n_chains, 2, generator=generator)
    _, noted = sampler.sample(x, n_steps=30, return_diagnostics=True, generator=generator)
    assert counting_model.gradients == 1 + noted["n_steps"].max(0).values.sum()
    assert counting_model.energies == 0
    depth = noted["tree_depth"]
    assert ((noted["n_steps"] >= 2**depth - 1) & (noted["n_steps"] < 2 ** (depth + 1))).all()


class Reads(TorchDispatchMode):
    """Counts the numbers that the host reads from tensors."""

    n = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.n += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


def test_the_host_reads_one_flag_a_leapfrog_and_nothing_else(generator):
    sampler = NoUTurnSampler(HarmonicModel())
    target, state, noise = setup(sampler, torch.randn(5, 2, generator=generator), generator)
    with Reads() as reads:
        _, info = sampler.step(state, noise, target, step_size=0.3)
    assert reads.n == info.n_steps.max() + 1


# what is kept ---------------------------------------------------------------------------------------------------------


def test_step_is_a_function_of_its_arguments(generator):
    sampler = NoUTurnSampler(Skewed())
    target, state, noise = setup(sampler, torch.randn(5, 2, dtype=F64, generator=generator), generator)
    before = [t.clone() for t in (*state, *noise)]
    one, other = (sampler.step(state, noise, target, step_size=0.3) for _ in range(2))
    assert all(map(torch.equal, (*state, *noise), before))
    assert all(map(torch.equal, (*one[0], *one[1]), (*other[0], *other[1])))
    kept = {leaf.data_ptr() for leaf in one[0]}
    assert kept.isdisjoint({t.data_ptr() for t in (*state, *noise)})


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, F64])
@pytest.mark.parametrize("event", EVENTS.values(), ids=EVENTS)
def test_deep_trees_in_every_shape_and_dtype(event, dtype, generator):
    sampler = NoUTurnSampler(HarmonicModel(), step_size=0.2)
    x = torch.randn(4, *event, generator=generator).to(dtype)
    trajectory, noted, state = sampler.sample(x, n_steps=4, return_state=True, generator=generator, **EVERYTHING)
    assert trajectory.shape == (4, 4, *event)
    assert trajectory.isfinite().all()
    assert {leaf.dtype for leaf in (trajectory, *state.kernel)} == {dtype}
    assert noted["acceptance_rate"].dtype == torch.promote_types(dtype, torch.float32)
    assert noted["tree_depth"].dtype == noted["n_steps"].dtype == torch.int64
    assert noted["tree_depth"].max() >= 2


def test_50_and_50_deep_steps_are_100(seeded):
    sampler = NoUTurnSampler(Skewed(), step_size=0.3)
    options = EVERYTHING | {"return_state": True}
    x, one, two = torch.randn(4, 2, generator=seeded(1)), seeded(), seeded()
    whole, noted, _ = sampler.sample(x, n_steps=100, generator=one, **options)
    first, _, state = sampler.sample(x, n_steps=50, generator=two, **options)
    second, noted_later, _ = sampler.sample(n_steps=50, state=state, generator=two, **options)
    assert torch.equal(whole, torch.cat([first, second], 1))
    assert torch.equal(noted["n_steps"][:, 50:], noted_later["n_steps"])


def test_thinning_adds_steps_and_keeps_the_largest_depth(seeded):
    sampler = NoUTurnSampler(Skewed(), step_size=0.3)
    x = torch.randn(4, 2, generator=seeded(1))
    _, every = sampler.sample(x, n_steps=21, return_diagnostics=True, generator=seeded())
    _, kept = sampler.sample(x, n_steps=23, thin=3, return_diagnostics=True, generator=seeded())
    assert torch.equal(kept["n_steps"], every["n_steps"].view(4, 7, 3).sum(-1))
    assert torch.equal(kept["tree_depth"], every["tree_depth"].view(4, 7, 3).amax(-1))


def test_only_trees_have_a_depth(case, generator):
    noted = case.make(HarmonicModel()).sample(dim=2, n_steps=2, return_diagnostics=True, generator=generator)[1]
    assert ("tree_depth" in noted) == (case.cls is NoUTurnSampler)


def test_a_mass_that_is_assigned_takes_effect_at_once(seeded):
    sampler, x = NoUTurnSampler(HarmonicModel(), 0.3), torch.zeros(4, 2)
    sampler.sample(x, n_steps=3, generator=seeded())
    for mass in (25.0, torch.tensor([0.5, 2.0]), torch.tensor([[1.0, 0.3], [0.3, 1.0]]), None):
        sampler.mass = mass
        fresh = NoUTurnSampler(HarmonicModel(), 0.3, mass=mass)
        one, other = (s.sample(x, n_steps=3, generator=seeded()) for s in (sampler, fresh))
        assert torch.equal(one, other)
    mass = torch.ones(2)
    sampler.mass = mass
    sampler.sample(x, n_steps=1, generator=seeded())
    metric = sampler.metric(x)
    assert sampler.metric(x) is metric  # factorised once
    mass.mul_(4)
    assert sampler.metric(x) is not metric


REFUSED = [
    ({"max_tree_depth": 0}, ValueError, "max_tree_depth must be at least 1; got 0"),
    ({"max_tree_depth": 2.5}, TypeError, "max_tree_depth must be a whole number"),
    ({"max_tree_depth": True}, TypeError, "max_tree_depth must be a whole number"),
    ({"target_acceptance": 0.0}, ValueError, "target_acceptance must be greater than 0"),
    ({"target_acceptance": 1.5}, ValueError, "target_acceptance must be less than 1"),
    ({"adapt_mass": "full"}, ValueError, "adapt_mass must be"),
    ({"target_acceptance": math.nan}, ValueError, "target_acceptance must be finite"),
    ({"mass": -1.0}, ValueError, "mass must be greater than 0"),
    ({"mass": [1.0]}, TypeError, "mass must be a number"),
    ({"step_size": 0.0}, ValueError, "step_size must be greater than 0"),
]


@pytest.mark.parametrize(("options", "error", "match"), REFUSED, ids=lambda o: str(o)[:40])
def test_refused(options, error, match):
    with pytest.raises(error, match=match):
        NoUTurnSampler(HarmonicModel(), **options)


def test_a_mass_that_does_not_fit_is_refused_before_the_trajectory(counting_model):
    with pytest.raises(ValueError, match=r"mass has shape \[3\]"):
        NoUTurnSampler(counting_model, mass=torch.ones(3)).sample(torch.zeros(2, 2), n_steps=1)


# divergences ----------------------------------------------------------------------------------------------------------


def test_a_funnel_diverges_in_its_neck_and_less_with_smaller_steps(generator):
    model, rates = FunnelModel(dim=10), []
    x = model.sample(400, generator=generator)
    for h in (0.05, 0.5, 1.5):
        sampler = NoUTurnSampler(model, step_size=h, max_tree_depth=6)
        y, noted = sampler.sample(x, n_steps=3, return_diagnostics=True, generator=generator)
        assert y.isfinite().all()
        assert noted["energy"].isfinite().all()
        rates.append(float(noted["diverging"].double().mean()))
    assert rates[0] < rates[1] < rates[2]
    assert rates[0] < 0.05
    assert rates[2] > 0.2


def test_an_energy_error_of_more_than_1000_diverges_and_one_below_does_not(generator):
    """From the bottom of a well of stiffness k, one leapfrog raises the energy by p² (hk)² (h² k / 4 - 1 + ...)."""

    def error(h):
        x = h * 1.0
        p = 1.0 - 0.5 * h * x
        return 0.5 * x * x + 0.5 * p * p - 0.5

    h = next(h for h in np.arange(2.0, 30.0, 0.01) if error(h) > 1000)
    sampler = NoUTurnSampler(HarmonicModel(), max_tree_depth=1)
    target, state, (_, u) = setup(sampler, torch.zeros(1, 1, dtype=F64), generator)
    for step_size, diverges in ((h, True), (h - 0.01, False)):
        _, info = sampler.step(state, (torch.ones(1, 1, dtype=F64), u), target, step_size=step_size)
        assert bool(info.diverging) is diverges


@pytest.mark.parametrize("outside", [math.inf, math.nan, -math.inf])
def test_walls_end_trajectories_and_are_flagged(outside, generator):
    sampler = NoUTurnSampler(lambda x: torch.where(x.abs() < 1, 0.5 * x.square(), outside).sum(-1), 0.3)
    x = torch.rand(200, 1, generator=generator) * 2 - 1
    trajectory, noted = sampler.sample(x, n_steps=20, generator=generator, **EVERYTHING)
    assert (trajectory.abs() < 1).all()
    assert noted["diverging"].any()
    assert not noted["diverging"].all()
    assert noted["energy"].isfinite().all()


@pytest.mark.parametrize("max_tree_depth", [1, 10])
def test_a_chain_at_an_infinite_energy_takes_the_first_finite_point(max_tree_depth, generator):
    def box(x):
        return torch.where(x.abs() < 1, 3000 + 0.5 * x.square(), torch.inf).sum(-1)

    sampler = NoUTurnSampler(box, 0.5, max_tree_depth)
    x = torch.full((30, 1), 1.2)
    x[0] = 0.0
    with pytest.warns(SamplingDivergenceWarning, match="29 of 30 chains started"):
        trajectory, noted = sampler.sample(x, n_steps=80, generator=generator, **EVERYTHING)
    inside = trajectory.squeeze(-1).abs() < 1
    assert inside[:, -1].all()
    assert bool((inside[:, 1:] >= inside[:, :-1]).all())
    assert noted["diverging"][1:, 0].all()
    stands = torch.cat([x.unsqueeze(1), trajectory], 1).squeeze(-1)
    assert torch.where(inside, 0.0, stands[:, 1:] - 1.2).abs().max() == 0  # nowhere else until then
    enters = inside & (stands[:, :-1] == 1.2).bool()
    assert (noted["acceptance_rate"][enters] == 1).all()


# moving ---------------------------------------------------------------------------------------------------------------


def test_trajectories_grow_as_steps_shrink_and_end_in_time(generator):
    """Half a period of a standard normal is a length of pi: the trajectory turns there, whatever the step size."""
    model, lengths = HarmonicModel(), []
    x = torch.randn(200, 20, generator=generator)
    for h in (0.4, 0.1, 0.025):
        _, noted = NoUTurnSampler(model, h).sample(x, n_steps=2, return_diagnostics=True, generator=generator)
        lengths.append(h * noted["n_steps"].double().mean())
        assert not noted["diverging"].any()
    assert all(1 < length < 2 * math.pi for length in lengths)


def test_a_dense_mass_is_a_change_of_coordinates(seeded):
    """With M the inverse covariance of a normal density, chains are linear images of those on a standard normal."""
    root = torch.tensor([[2.0, 0.0], [1.5, 0.3]], dtype=F64)
    cov = root @ root.T
    to_x = torch.linalg.inv(torch.linalg.cholesky(torch.linalg.inv(cov))).T
    z = torch.randn(40, 2, dtype=F64, generator=seeded(1))
    on_z = NoUTurnSampler(HarmonicModel(), 0.4)
    on_x = NoUTurnSampler(GaussianModel(torch.zeros(2), cov), 0.4, mass=torch.linalg.inv(cov))
    expected = on_z.sample(z, n_steps=5, generator=seeded()) @ to_x.T
    torch.testing.assert_close(on_x.sample(z @ to_x.T, n_steps=5, generator=seeded()), expected, rtol=1e-8, atol=1e-8)


def test_draws_are_nearly_independent_where_the_scale_is_right(generator):
    """In 10 dimensions; the half that was added last is preferred, so that a chain crosses over."""
    sampler, x = NoUTurnSampler(HarmonicModel(), 0.5), torch.randn(64, 10, generator=generator)
    trajectory = sampler.sample(x, n_steps=100, return_trajectory=True, generator=generator)
    lagged = (trajectory[:, 1:] * trajectory[:, :-1]).mean()
    assert lagged < 0.2
    assert abs(trajectory.square().mean() - 1) < 0.05


def test_kinetic_energies_of_many_dimensions_are_not_rounded(seeded):
    """In bfloat16 a sum of 2000 squares is off by several units: the rate would be 0.69."""
    rates = {}
    for dtype in (torch.float32, torch.bfloat16):
        x = torch.randn(16, 2000, generator=seeded()).to(dtype)
        sampler = NoUTurnSampler(lambda x: 0.5 * x.float().square().sum(-1), 0.1, 3)
        _, noted = sampler.sample(x, n_steps=4, generator=seeded(1), return_diagnostics=True)
        rates[dtype] = float(noted["acceptance_rate"].mean())
    assert rates[torch.float32] > 0.95
    assert rates[torch.bfloat16] > 0.8


def test_the_target_is_given_by_name():
    with pytest.raises(TypeError, match="positional"):
        NoUTurnSampler(HarmonicModel(), 0.1, 10, None, 0.8)
