"""Every argument that makes no sense is refused, before anything runs, by an error that names it."""

import inspect

import pytest
import torch
from torch import nn

from torchebm.core import BaseModel, EnergyModel, HarmonicModel, SamplerState

NAN, INF = float("nan"), float("inf")
X = torch.zeros(4, 2)


@pytest.fixture(autouse=True)
def networks_are_the_same_each_time():
    """What is drawn without a generator, as the weights of networks, is drawn from a stream that begins here."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


CALLS = [
    ("x is a list", {"x": [[0.0, 0.0]]}, TypeError, "x must be a tensor .*; got list. Use torch.as_tensor"),
    ("x is complex", {"x": X.cfloat()}, ValueError, "x must be a real tensor"),
    ("x is one number", {"x": torch.tensor(1.0)}, ValueError, r"x must be a real tensor \[chain"),
    ("x is NaN", {"x": torch.tensor([[0.0, NAN], [0.0, 0.0], [INF, 0.0]])}, ValueError, "not finite, in 2 of 3 chains"),
    ("points without entries", {"x": torch.zeros(4, 0)}, ValueError, "a point without entries"),
    ("x has the wrong width", {"x": torch.zeros(4, 3)}, ValueError, r"x has shape \[4, 3\].*\[2\], that of the model"),
    ("x is a single point", {"x": torch.zeros(2)}, ValueError, r"x has shape \[2\].*expected \[2\]"),
    ("dim contradicts x", {"x": X, "dim": 3}, ValueError, r"expected \[3\], as given by dim"),
    ("dim is negative", {"dim": -1}, ValueError, "dim must be at least 1; got -1"),
    ("dim is zero", {"dim": 0}, ValueError, "dim must be at least 1; got 0"),
    ("dim has a zero", {"dim": (2, 0)}, ValueError, "each size in dim must be at least 1"),
    ("dim is a bool", {"dim": True}, TypeError, "dim must be a whole number"),
    ("dim is a fraction", {"dim": 2.5}, TypeError, "dim must be a whole number"),
    ("n_steps is negative", {"n_steps": -1}, ValueError, "n_steps must be at least 0; got -1"),
    ("n_steps is a bool", {"n_steps": True}, TypeError, "n_steps must be a whole number"),
    ("n_steps is a fraction", {"n_steps": 2.0}, TypeError, "n_steps must be a whole number"),
    ("n_warmup is negative", {"n_warmup": -1}, ValueError, "n_warmup must be at least 0"),
    ("thin is zero", {"thin": 0}, ValueError, "thin must be at least 1"),
    ("thin exceeds n_steps", {"thin": 6, "n_steps": 5}, ValueError, "thin=6 keeps no draw of n_steps=5"),
    ("n_samples is negative", {"n_samples": -1}, ValueError, "n_samples must be at least 0"),
    ("n_samples contradicts x", {"x": X, "n_samples": 3}, ValueError, "n_samples=3, but x has 4 chains"),
    ("generator is a seed", {"generator": 0}, TypeError, "generator must be a torch.Generator"),
    ("state is a tensor", {"state": X}, TypeError, "state must be what return_state=True returned, last; got Tensor"),
    ("trajectory to two places", {"return_trajectory": True, "trajectory_out": "x.npy"}, ValueError, "not both"),
    ("trajectory to an unknown format", {"trajectory_out": "x.csv"}, ValueError, "or .zarr; got 'x.csv'"),
    ("unknown option", {"n_step": 5}, TypeError, "n_step"),
]  # fmt: skip


@pytest.mark.parametrize(("options", "error", "match"), [c[1:] for c in CALLS], ids=[c[0] for c in CALLS])
def test_refused_by_sample(case, options, error, match):
    sampler = case.make(HarmonicModel(dim=2))
    with pytest.raises(error, match=match):
        sampler.sample(**({"n_steps": 5} | options))


def test_dim_is_needed_where_nothing_tells(case):
    with pytest.raises(
        ValueError, match="does not know its event shape: give starting points, x=, or the shape, dim=2"
    ):
        case.make(HarmonicModel()).sample(n_steps=1)


def test_x_must_be_the_chains_of_the_state_it_comes_with(case):
    sampler = case.make(HarmonicModel())
    state = sampler.sample(X, n_steps=1, return_state=True)[1]
    assert isinstance(state, SamplerState)
    with pytest.raises(ValueError, match="x differs from the chains in state"):
        sampler.sample(X + 9, state=state, n_steps=1)


@pytest.mark.parametrize("model", [None, 3.0, "model", [HarmonicModel()]])
def test_refused_as_model(case, model):
    with pytest.raises(TypeError, match="model must be a BaseModel, a network or a function"):
        case.make(model)


OPTIONS = [
    ({"dtype": torch.int64}, TypeError, "dtype must be a floating torch.dtype"),
    ({"dtype": torch.complex64}, TypeError, "dtype must be a floating torch.dtype"),
    ({"dtype": "float32"}, TypeError, "dtype must be a floating torch.dtype"),
    ({"precision": "fp8"}, ValueError, 'precision must be "bf16", "fp32" or None'),
    ({"stepsize": 0.1}, TypeError, "stepsize"),
]


@pytest.mark.parametrize(("options", "error", "match"), OPTIONS, ids=lambda o: str(o)[:40])
def test_refused_by_every_constructor(case, options, error, match):
    with pytest.raises(error, match=match):
        case.make(HarmonicModel(), **options)


def own_parameters(cls):
    """All that its constructor takes, but for the model and the options that all samplers have."""
    parameters = list(inspect.signature(cls.__init__).parameters.values())[2:]
    return [p.name for p in parameters if p.kind is not p.VAR_KEYWORD]


@pytest.mark.parametrize("value", [NAN, INF, -INF, -1, -0.5, "junk", 1j, {}], ids=repr)
def test_no_parameter_of_any_constructor_takes_what_is_no_value_of_it(case, value):
    for name in own_parameters(case.cls):
        with pytest.raises((ValueError, TypeError), match=name):
            case.cls(HarmonicModel(), **{name: value})


MAY_BE_ZERO = {"noise_scale", "jitter", "path_jitter", "momentum", "gradient_noise"}


@pytest.mark.parametrize("zero", [0, 0.0], ids=repr)
def test_no_size_and_no_step_is_zero(case, zero):
    for name in set(own_parameters(case.cls)) - MAY_BE_ZERO:
        with pytest.raises((ValueError, TypeError), match=name):
            case.cls(HarmonicModel(), **{name: zero})


@pytest.mark.parametrize("value", [True, None, "0.1", [0.1], 1j, NAN, INF, -INF, -1.0, torch.ones(2)], ids=repr)
def test_refused_as_any_scheduled_parameter(case, value):
    for name in case.scheduled:
        if value is None and getattr(case.cls, name).optional:
            continue  # which leaves it out
        with pytest.raises((ValueError, TypeError), match=rf"{name} must be"):
            case.make(HarmonicModel(), **{name: value})
        sampler = case.make(HarmonicModel())
        before = getattr(sampler, name)
        with pytest.raises((ValueError, TypeError), match=rf"{name} must be"):
            setattr(sampler, name, value)
        assert getattr(sampler, name) == before


def test_zero_is_refused_where_it_would_stand_still(case):
    with pytest.raises(ValueError, match=f"{case.positive} must be greater than 0"):
        case.make(HarmonicModel(), **{case.positive: 0.0})


@pytest.mark.parametrize("value", [2, torch.tensor(2.0), torch.tensor(2)], ids=repr)
def test_whole_numbers_and_tensors_of_one_are_numbers(case, value):
    sampler = case.make(HarmonicModel(), **{case.positive: value})
    assert getattr(sampler, case.positive) == 2.0
    assert isinstance(getattr(sampler, case.positive), float)


@pytest.mark.parametrize(("dtype", "other"), [(torch.float64, torch.float32), (torch.float32, torch.float64)])
def test_points_and_network_of_different_dtypes(case, dtype, other):
    with pytest.raises(TypeError, match=rf"x of {dtype}, and has parameters of {other}: convert one"):
        case.make(nn.Linear(2, 1, dtype=other)).sample(X.to(dtype), n_steps=1)


def test_errors_of_the_model_are_its_own(case):
    class Broken(nn.Linear):
        def forward(self, x):
            raise RuntimeError("not about dtypes")

    with pytest.raises(RuntimeError, match="not about dtypes"):
        case.make(Broken(2, 1)).sample(X, n_steps=1)


BAD_ENERGIES = [
    (lambda x: x.square(), ValueError, r"energies of shape \[4, 2\]; expected \[4\]"),
    (lambda x: x.square().sum(), ValueError, r"energies of shape \[\]; expected \[4\]"),
    (lambda x: x.square().sum(-1).tolist(), TypeError, "the model returned a list"),
]


@pytest.mark.parametrize(("energy", "error", "match"), BAD_ENERGIES, ids=["matrix", "scalar", "list"])
def test_anything_but_one_energy_a_chain(case, energy, error, match):
    with pytest.raises(error, match=match):
        case.make(EnergyModel(energy)).sample(X, n_steps=1)


@pytest.mark.parametrize("energy", [lambda x: x.detach().square().sum(-1), lambda x: (x > 0).float().sum(-1)])
def test_an_energy_without_gradient(case, energy, generator):
    sampler = case.make(energy)
    if case.cls.needs_gradient:
        with pytest.raises(ValueError, match="does not depend on x as far as autograd can see"):
            sampler.sample(X, n_steps=1, generator=generator)
    else:
        assert sampler.sample(X, n_steps=1, generator=generator).shape == (4, 2)


class Column(BaseModel):
    def forward(self, x):
        return 0.5 * x.square().sum(-1, keepdim=True)


def test_a_column_of_energies_is_an_error_in_a_model_and_means_the_same_in_a_network(case, seeded):
    """`[n, 1]` would broadcast with `[n]` to `[n, n]`."""
    with pytest.raises(ValueError, match=r"energies of shape \[4, 1\]; expected \[4\], one scalar per chain"):
        case.make(Column()).sample(X, n_steps=1)
    column, flat = (
        case.make(EnergyModel(lambda x, keep=keep: 0.5 * x.square().sum(-1, keepdim=keep))) for keep in (True, False)
    )
    x = [sampler.sample(X + 1, n_steps=5, generator=seeded()) for sampler in (column, flat)]
    assert torch.equal(*x)


# nobody there, and elsewhere ------------------------------------------------------------------------------------------


def test_no_chains_are_no_error(case, generator):
    before = generator.get_state()
    for given in ({"x": torch.zeros(0, 2)}, {"n_samples": 0, "dim": 2}):
        trajectory, noted, state = case.make(HarmonicModel()).sample(
            **given, n_steps=6, n_warmup=40, thin=2, generator=generator, return_trajectory=True,
            return_diagnostics=True, return_state=True,
        )  # fmt: skip
        assert trajectory.shape == (0, 3, 2)
        assert {noted[name].shape for name in noted if name not in ("mean", "var")} == {(0, 3)}
        assert noted["mean"].shape == (3, 2)
        assert state.x.shape == (0, 2)
    assert torch.equal(generator.get_state(), before)


def test_a_model_or_a_generator_on_another_device(case, generator):
    with pytest.raises(ValueError, match="x is on meta, the model on cpu: move one of them"):
        case.make(nn.Linear(2, 1), device="meta").sample(dim=2, n_steps=1)
    with pytest.raises(ValueError, match="x is on meta, the model on cpu: move one of them"):
        case.make(nn.Linear(2, 1)).sample(torch.zeros(3, 2, device="meta"), n_steps=1)
    with pytest.raises(ValueError, match="the generator lives on cpu, the tensors it should fill on meta: create it"):
        case.make(HarmonicModel(), device="meta").sample(dim=2, n_steps=1, generator=generator)


def test_nothing_runs_and_no_number_is_drawn_before_arguments_are_checked(case, counting_model, generator):
    before = generator.get_state()
    for options in ({"n_steps": -1}, {"thin": 9, "n_steps": 5}, {"n_samples": -1}, {"dim": -1}):
        with pytest.raises(ValueError):
            case.make(counting_model).sample(**({"dim": 2, "generator": generator} | options))
    assert torch.equal(generator.get_state(), before)
    assert counting_model.given == []
