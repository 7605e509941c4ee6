"""What every exported sampler promises: shapes, dtypes, randomness, and no trace left on model or input."""

import inspect

import pytest
import torch
from torch import nn
from torch.distributions.transforms import AffineTransform

import torchebm.samplers
from torchebm.core import (
    BaseModel,
    BaseSampler,
    EnergyModel,
    GaussianModel,
    HarmonicModel,
    StandardizedModel,
    Target,
    TransformedModel,
)

F64 = torch.float64
EVENTS = {"vector": (2,), "image": (1, 4, 4), "scalar": ()}


def units(inner=None):
    """A standard normal in units of its own: mean 30, standard deviation 4."""
    return TransformedModel(inner or HarmonicModel(), AffineTransform(torch.tensor([30.0]), torch.tensor([4.0])))


def network(dtype=torch.float32):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(2, 8), nn.Dropout(), nn.BatchNorm1d(8), nn.Linear(8, 1), nn.Softplus()).to(dtype)


def test_every_exported_sampler_is_in_the_table(sampler_table):
    exported = (getattr(torchebm.samplers, name) for name in torchebm.samplers.__all__)
    samplers = {c for c in exported if inspect.isclass(c) and issubclass(c, BaseSampler)}
    assert samplers == {case.cls for case in sampler_table}


# signature and shapes -------------------------------------------------------------------------------------------------


def test_signature(case):
    parameters = inspect.signature(case.cls.sample).parameters
    positional = {n: p.default for n, p in parameters.items() if p.kind is p.POSITIONAL_OR_KEYWORD and n != "self"}
    assert list(positional.items()) == [
        ("x", None), ("dim", None), ("n_steps", 100), ("n_samples", 1), ("thin", 1), ("return_trajectory", False),
        ("return_diagnostics", False), ("reset_schedulers", True),
    ]  # fmt: skip
    keyword_only = {n: p.default for n, p in parameters.items() if p.kind is p.KEYWORD_ONLY}
    expected = {"n_warmup": 0, "model_kwargs": None, "generator": None, "progress": False, "trajectory_out": None,
                "state": None, "return_state": False}  # fmt: skip
    assert expected.items() <= keyword_only.items()


def test_constructor_defaults_sample_and_options_are_taken(case):
    assert case.cls(HarmonicModel(dim=3)).sample(n_steps=2, n_samples=4).shape == (4, 3)
    assert next(iter(inspect.signature(case.cls).parameters)) == "model"
    sampler = case.make(HarmonicModel(), dtype=F64, device="cpu", precision="fp32")
    assert (sampler.dtype, sampler.device) == (F64, torch.device("cpu"))
    assert case.cls.__name__ in repr(sampler)
    assert case.positive in repr(sampler)


@pytest.mark.parametrize("event", EVENTS.values(), ids=EVENTS)
def test_shapes(case, event, generator):
    sampler, x = case.make(HarmonicModel()), torch.zeros(5, *event)
    assert sampler.sample(x, n_steps=3, generator=generator).shape == (5, *event)
    assert sampler.sample(dim=event, n_steps=3, n_samples=4, generator=generator).shape == (4, *event)
    everything = {"return_trajectory": True, "return_diagnostics": True, "return_state": True}
    trajectory, diagnostics, state = sampler.sample(x, n_steps=7, thin=2, generator=generator, **everything)
    assert trajectory.shape == (5, 3, *event)
    assert trajectory.isfinite().all()
    assert state.step == 7
    assert {leaf.shape[0] for leaf in state.kernel} == {5}
    assert diagnostics["energy"].shape == (5, 3)
    assert diagnostics["mean"].shape == diagnostics["var"].shape == (3, *event)


def test_dim_is_an_integer_a_shape_or_inferred(case, generator):
    for model, dim, shape in [
        (HarmonicModel(), 3, (3,)),
        (HarmonicModel(), (2, 3), (2, 3)),
        (HarmonicModel(dim=2), None, (2,)),
    ]:
        assert case.make(model).sample(dim=dim, n_steps=1, n_samples=4, generator=generator).shape == (4, *shape)
    assert case.make(HarmonicModel()).sample(x=torch.zeros(4, 3), dim=3, n_samples=4, n_steps=1).shape == (4, 3)


def test_starting_points_are_standard_normal(case, seeded):
    x = case.make(HarmonicModel()).sample(dim=1, n_steps=0, n_samples=10_000, generator=seeded())
    assert abs(x.mean()) < 5 / 100  # 5 standard errors: once in 1.7 million seeds
    assert abs(x.var() - 1) < 5 * 2**0.5 / 100


# dtype ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize(
    "model", [HarmonicModel(), units(), EnergyModel(lambda x: x.cosh().sum(-1))], ids=["closed", "units", "autograd"]
)
def test_dtype_is_followed(case, model, dtype, generator):
    x = torch.full((3, 1), 2.0, dtype=dtype)
    trajectory, diagnostics = case.make(model).sample(
        x, n_steps=4, return_trajectory=True, return_diagnostics=True, generator=generator
    )
    assert trajectory.dtype == dtype
    assert case.make(model).sample(x, n_steps=4, generator=generator).dtype == dtype
    wide = torch.promote_types(dtype, torch.float32)
    expected = {
        "energy": dtype,
        "mean": dtype,
        "var": dtype,
        "diverging": torch.bool,
        "step_size": dtype,
        "acceptance_rate": wide,
    }
    expected |= dict.fromkeys(case.counts, torch.int64) | dict.fromkeys(case.rates, wide)
    assert {name: t.dtype for name, t in diagnostics.items()} == {name: expected[name] for name in diagnostics}


def test_accept_tests_are_at_least_in_float32(exact):
    for dtype, wide in [(torch.bfloat16, torch.float32), (torch.float16, torch.float32), (F64, F64)]:
        xi, *_, u = exact.make(HarmonicModel()).noise(torch.zeros(3, 2, dtype=dtype), 4)
        assert (xi.dtype, u.dtype, xi.shape, u.shape[:2]) == (dtype, wide, (4, 3, 2), (4, 3))


def test_energies_are_compared_in_the_precision_they_come_in(exact, generator):
    """At 1000, neighbouring numbers of bfloat16 are 8 apart."""
    x = torch.full((200, 1), 8.0, dtype=torch.bfloat16)
    sampler = exact.make(lambda x: 1000 + 0.5 * x.float().square().sum(-1))
    x, state = sampler.sample(x, n_steps=100, generator=generator, return_state=True)
    assert x.dtype == torch.bfloat16
    assert state.kernel.energy.dtype == torch.float32
    assert x.float().square().mean() < 2


def test_dtype_of_starting_points_asked_for_or_the_models(case):
    assert case.make(HarmonicModel(), dtype=F64).sample(torch.zeros(2, 1), n_steps=2).dtype == F64
    assert case.make(HarmonicModel(), dtype=F64).sample(dim=1, n_steps=2).dtype == F64
    assert case.make(HarmonicModel().double()).sample(dim=1, n_steps=2).dtype == F64
    assert case.make(HarmonicModel()).to(dtype=F64).sample(dim=1, n_steps=2).dtype == F64


def test_integers_are_promoted_to_the_default_float_type(case, seeded):
    sampler = case.make(HarmonicModel())
    for x in (torch.tensor([[3], [-2]]), torch.tensor([[True], [False]])):
        assert torch.equal(
            sampler.sample(x, n_steps=3, generator=seeded()), sampler.sample(x.float(), n_steps=3, generator=seeded())
        )


def test_a_model_that_computes_in_another_dtype_does_not_change_that_of_the_chains(case, generator):
    model = GaussianModel(torch.zeros(2, dtype=F64), torch.eye(2, dtype=F64))
    wide = EnergyModel(lambda x: model(x.double()))
    assert case.make(wide).sample(torch.zeros(3, 2), n_steps=3, generator=generator).dtype == torch.float32


def test_bf16_runs_the_network_under_autocast_and_keeps_the_state(case, seeded):
    seen = []

    class Network(BaseModel):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(2, 4)

        def forward(self, x):
            seen.append((x.dtype, self.layer(x).dtype))
            return self.layer(x).float().square().sum(-1) + x.square().sum(-1)

    model, x = Network(), torch.zeros(3, 2)
    assert case.make(model, precision="bf16").sample(x, n_steps=3, generator=seeded()).dtype == torch.float32
    assert set(seen) == {(torch.float32, torch.bfloat16)}
    seen.clear()
    case.make(model).sample(x, n_steps=3, generator=seeded())
    assert set(seen) == {(torch.float32, torch.float32)}


# randomness -----------------------------------------------------------------------------------------------------------


def test_one_generator_gives_the_same_bits_whatever_the_global_stream(case, seeded):
    sampler, runs = case.make(HarmonicModel()), []
    with torch.random.fork_rng():
        for global_seed in (1, 2):
            torch.manual_seed(global_seed)
            before = torch.get_rng_state()
            runs.append(sampler.sample(dim=3, n_samples=4, n_steps=10, n_warmup=2, generator=seeded()))
            assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(*runs)
    assert not torch.equal(runs[0], sampler.sample(dim=3, n_samples=4, n_steps=10, n_warmup=2, generator=seeded(1)))


def test_without_a_generator_the_default_one_is_used(case):
    sampler = case.make(HarmonicModel())
    with torch.random.fork_rng():
        torch.manual_seed(3)
        one, two = (sampler.sample(dim=2, n_samples=4, n_steps=5) for _ in range(2))
        torch.manual_seed(3)
        again = sampler.sample(dim=2, n_samples=4, n_steps=5)
    assert torch.equal(one, again)
    assert not torch.equal(one, two)
    assert torch.equal(one, sampler.sample(dim=2, n_samples=4, n_steps=5, generator=torch.Generator().manual_seed(3)))


def cosine(scale):
    return lambda step: scale * (1.2 - step / 100)


@pytest.mark.parametrize("thin", [1, 5])
@pytest.mark.parametrize("n_warmup", [0, 10])
@pytest.mark.parametrize("scheduled", [False, True], ids=["constant", "scheduled"])
@pytest.mark.parametrize("model", [HarmonicModel(dim=1), units(HarmonicModel(dim=1))], ids=["plain", "units"])
def test_50_and_50_steps_are_100(case, model, scheduled, n_warmup, thin, seeded):
    schedules = {name: cosine(case.parameters.get(name, 1.0)) for name in case.scheduled} if scheduled else {}
    options = {"thin": thin, "return_trajectory": True, "return_diagnostics": True, "return_state": True}
    sampler, one, two = case.make(model, **schedules), seeded(), seeded()
    whole, diagnostics, end = sampler.sample(n_samples=4, n_steps=100, n_warmup=n_warmup, generator=one, **options)
    first, noted, state = sampler.sample(n_samples=4, n_steps=50, n_warmup=n_warmup, generator=two, **options)
    second, noted_later, last = sampler.sample(n_steps=50, state=state, generator=two, **options)
    assert torch.equal(whole, torch.cat([first, second], 1))
    assert torch.equal(end.x, last.x)
    assert end.step == last.step == 100
    for name, whole_of_it in diagnostics.items():
        axis = 0 if name in ("mean", "var") else 1
        parts = torch.cat([noted[name], noted_later[name]], axis)
        torch.testing.assert_close(parts, whole_of_it, rtol=0, atol=0, equal_nan=True)
    assert torch.equal(one.get_state(), two.get_state())


def test_a_state_comes_last_and_is_not_changed_by_what_follows(case, seeded):
    sampler = case.make(HarmonicModel())
    x, state = sampler.sample(dim=2, n_steps=5, generator=seeded(), return_state=True)
    leaves = [leaf.clone() for leaf in state.kernel]
    x.zero_()  # the caller's own
    one, two = (sampler.sample(state=state, n_steps=5, generator=seeded(1)) for _ in range(2))
    assert torch.equal(one, two)
    assert all(map(torch.equal, state.kernel, leaves))
    assert torch.equal(sampler.sample(x=state.x, state=state, n_steps=5, generator=seeded(1)), one)


def test_a_continued_state_sees_the_model_as_it_is_now(case, seeded):
    model, x = HarmonicModel(), torch.ones(4, 1)
    state = case.make(model).sample(x, n_steps=1, generator=seeded(), return_state=True)[1]
    model.k = 50.0
    sampler, target = case.make(model), Target(model)
    kept = {name: getattr(state.kernel, name) for name in case.memory}
    with torch.no_grad():
        anew = sampler.init(state.x, target, seeded(2))._replace(**kept)
        again = sampler.advance(anew, 0, 5, target=target, generator=seeded(1)).x
    assert torch.equal(sampler.sample(state=state, n_steps=5, generator=seeded(1)), again)


# no trace -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_steps", [0, 3])
def test_input_is_not_modified_and_output_is_a_tensor_of_its_own(case, n_steps, generator):
    x = torch.ones(4, 2, requires_grad=True)
    y = case.make(HarmonicModel()).sample(x, n_steps=n_steps, generator=generator)
    assert torch.equal(x, torch.ones(4, 2))
    assert x.requires_grad
    assert x.grad is None
    assert not y.requires_grad
    assert y.data_ptr() != x.data_ptr()
    assert torch.equal(x, y) is (n_steps == 0)


def test_a_state_is_not_a_view_of_the_input(case):
    x = torch.ones(4, 2)
    state = case.make(HarmonicModel()).sample(x, n_steps=0, return_state=True)[1]
    x.zero_()
    assert torch.equal(state.x, torch.ones(4, 2))


def test_views_are_taken_as_they_are(case, seeded):
    sampler, wide = case.make(HarmonicModel()), torch.arange(12.0).view(3, 4)
    for view in (wide.T, wide[:, ::2], wide[:1].expand(5, 4)):
        plain = sampler.sample(view.contiguous(), n_steps=3, generator=seeded())
        assert torch.equal(sampler.sample(view, n_steps=3, generator=seeded()), plain)


@pytest.mark.parametrize("fails", [False, True])
def test_model_is_left_as_it_was(case, fails, generator):
    net = network()
    net[2].eval()
    net[3].bias.requires_grad_(False)
    modes, frozen = [m.training for m in net.modules()], [p.requires_grad for p in net.parameters()]
    before = {name: t.clone() for name, t in net.state_dict().items()}
    seen = []

    def energy(x):
        if fails and len(seen) > 2:
            raise ArithmeticError("on purpose")
        seen.append(any(m.training for m in net.modules()) or any(p.requires_grad for p in net.parameters()))
        return net(x)

    model = EnergyModel(energy)
    model.net = net
    if fails:
        with pytest.raises(ArithmeticError, match="on purpose"):
            case.make(model).sample(torch.zeros(4, 2), n_steps=5, generator=generator)
    else:
        case.make(model).sample(torch.zeros(4, 2), n_steps=5, generator=generator)
    assert not any(seen)  # sampled in eval mode with frozen parameters, and then:
    assert [m.training for m in net.modules()] == modes
    assert [p.requires_grad for p in net.parameters()] == frozen
    assert all(p.grad is None for p in net.parameters())
    assert all(torch.equal(t, before[name]) for name, t in net.state_dict().items())


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_grad_modes(case, mode, seeded):
    sampler = case.make(network())
    plain = sampler.sample(torch.zeros(4, 2), n_steps=5, generator=seeded())
    with mode():
        x, state = sampler.sample(torch.zeros(4, 2), n_steps=5, generator=seeded(), return_state=True)
        assert torch.is_grad_enabled() is (mode is torch.enable_grad)
    assert torch.equal(x, plain)
    assert not x.requires_grad
    assert x.grad_fn is None
    assert sampler.sample(state=state, n_steps=2, generator=seeded()).shape == (4, 2)


# the model ------------------------------------------------------------------------------------------------------------


def test_networks_and_functions_are_models(case, seeded):
    linear = nn.Linear(2, 1)
    with torch.no_grad():
        linear.weight.copy_(torch.tensor([[1.0, -2.0]]))
        linear.bias.zero_()
    flat = EnergyModel(lambda x: x @ torch.tensor([1.0, -2.0]))
    x = torch.zeros(3, 2)
    expected = case.make(flat).sample(x, n_steps=3, generator=seeded())
    for model in (linear, lambda x: linear(x), lambda x: linear(x).squeeze(-1)):  # [n, 1] and [n]
        torch.testing.assert_close(case.make(model).sample(x, n_steps=3, generator=seeded()), expected)


def test_model_kwargs_reach_forward(case, counting_model, generator):
    label = torch.tensor([0, 1, 2])
    case.make(counting_model).sample(
        torch.zeros(3, 2), n_steps=2, n_warmup=1, model_kwargs={"label": label}, generator=generator
    )
    assert len(counting_model.given) >= 3
    assert all(given.keys() == {"label"} and torch.equal(given["label"], label) for given in counting_model.given)


def test_conditions_steer_each_chain(case, generator):
    def energy(x, at):
        return 50 * (x - at).square().sum(-1)

    at = torch.tensor([[-5.0], [5.0]]).repeat(20, 1)
    parameter = {case.positive: 0.1 * case.parameters[case.positive]}
    x = case.make(energy, **parameter).sample(
        torch.zeros(40, 1), n_steps=300, model_kwargs={"at": at}, generator=generator
    )
    assert (x - at).abs().max() < 1


@pytest.mark.parametrize("n", [1, 6])
def test_evaluations_are_as_few_as_promised(case, counting_model, n, generator):
    sampler = case.make(counting_model)
    _, state = sampler.sample(torch.zeros(3, 2), n_steps=n, generator=generator, return_state=True)
    assert (counting_model.gradients, counting_model.energies) == (case.gradients(n), case.energies(n))
    sampler.sample(state=state, n_steps=n, generator=generator)  # the model may have changed: a start costs what it did
    assert (counting_model.gradients, counting_model.energies) == tuple(
        count(2 * n) + count(0) for count in (case.gradients, case.energies)
    )


def test_samples_come_back_in_the_units_of_a_transformed_model(case, seeded):
    z, noted = case.make(HarmonicModel()).sample(
        torch.ones(4, 1), n_steps=5, generator=seeded(), return_diagnostics=True
    )
    x, noted_in_units, state = case.make(units()).sample(torch.full((4, 1), 34.0), n_steps=5, generator=seeded(),
                                                         return_diagnostics=True, return_state=True)  # fmt: skip
    torch.testing.assert_close(x, 30 + 4 * z)
    torch.testing.assert_close(state.x, z)
    torch.testing.assert_close(noted_in_units["mean"], 30 + 4 * noted["mean"])
    torch.testing.assert_close(noted_in_units["var"], 16 * noted["var"], rtol=1e-3, atol=1e-3)


def test_a_standardised_model_of_images_walks_over_vectors(case, generator):
    model = StandardizedModel(EnergyModel(HarmonicModel()), torch.full((1, 2, 2), 30.0), 4 * torch.eye(4))
    for options in ({"n_samples": 3}, {"x": torch.full((3, 1, 2, 2), 34.0)}):
        x, noted, state = case.make(model).sample(
            n_steps=5, generator=generator, return_diagnostics=True, return_state=True, **options
        )
        assert x.shape == (3, 1, 2, 2)
        assert state.x.shape == (3, 4)
        torch.testing.assert_close(noted["energy"][:, -1], model(x), rtol=1e-4, atol=1e-4)
        assert case.make(model).sample(state=state, n_steps=2, generator=generator).shape == (3, 1, 2, 2)


def test_a_transformed_model_starts_standard_normal_where_it_walks(case, seeded):
    start = case.make(units()).sample(dim=1, n_samples=1000, n_steps=0, generator=seeded())
    assert abs(start.mean() - 30) < 5 * 4 / 1000**0.5
