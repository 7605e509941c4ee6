"""The kernels against PyTorch: noise, steps of each known energy, and each of their options."""

import math

import pytest
import torch

from torchebm.core import ClosedFormModel, DoubleWellModel, EnergyModel, HarmonicModel, RastriginModel
from torchebm.cuda import kernels, philox_normal_, register_elementwise
from torchebm.cuda.elementwise import elementwise
from torchebm.cuda.launch import Steps, fill_normal_, langevin_steps, obstacle
from torchebm.cuda.philox import step_keys

tl = kernels.tl  # the interpreter looks for it beside a function
F32, F64 = torch.float32, torch.float64
TOLERANCE = {F32: 2e-6, F64: 1e-12}
both_dtypes = pytest.mark.parametrize("dtype", [F32, F64], ids=str)
MODELS = [HarmonicModel(1.7), DoubleWellModel(0.7, 1.2), RastriginModel(3.0)]
every_model = pytest.mark.parametrize("model", MODELS, ids=lambda model: type(model).__name__)


def keys_for(n, x, seed=0):
    return step_keys(n, torch.Generator(x.device).manual_seed(seed), x.dtype, x.device)


def plain(x, model, keys, steps, root=1.0, box=None, held=None):
    """The states that the steps lead through, one PyTorch operation after the other."""
    states = []
    for (key, position), h, spread, clip in zip(
        keys.tolist(), steps.step_size, steps.spread, steps.clip or [None] * len(keys), strict=True
    ):
        gradient = model.gradient(x)
        gradient = gradient if clip is None else gradient.clamp(-clip, clip)
        y = x - h * gradient + spread * root * philox_normal_(torch.empty_like(x), key, position)
        y = y if box is None else y.clamp(*box)
        x = y if held is None else torch.where(held.view(-1, *[1] * (x.ndim - 1)), x, y)
        states.append(x)
    return states


@both_dtypes
@pytest.mark.parametrize("n", [1, 3, 4, 511, 513])
@pytest.mark.parametrize("position", [0, 2**33 + 5])
def test_noise(device, dtype, n, position):
    keys = torch.tensor([[-(2**62) + 12345, position]])
    expected = philox_normal_(torch.empty(n, dtype=dtype, device=device), *keys[0].tolist())
    drawn = fill_normal_(torch.empty(n, dtype=dtype, device=device), keys)
    torch.testing.assert_close(drawn, expected, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


def test_noise_in_any_layout(device):
    keys = torch.tensor([[3, 4]])
    whole = fill_normal_(torch.empty(12, device=device), keys)
    out = torch.full((4, 6), torch.nan, device=device)
    fill_normal_(out[:, ::2], keys)
    assert torch.equal(out[:, ::2].reshape(-1), whole)
    assert out[:, 1::2].isnan().all()
    assert fill_normal_(torch.empty(0, 3, device=device), keys).shape == (0, 3)


@both_dtypes
@every_model
@pytest.mark.parametrize("shape", [(1,), (7,), (5, 2, 3), (513, 1)], ids=str)
def test_steps(points, dtype, model, shape):
    x = points(*shape, dtype=dtype)
    kept, steps, keys = x.clone(), Steps([0.004, 0.003, 0.002], [0.1, 0.2, 0.0]), keys_for(3, x)
    out, draws = langevin_steps(x, model, keys, steps)
    torch.testing.assert_close(out, plain(x, model, keys, steps)[-1], rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])
    assert draws is None
    assert torch.equal(x, kept)
    assert (out.shape, out.dtype, out.device) == (x.shape, x.dtype, x.device)


@both_dtypes
@every_model
def test_one_step_is_the_formula(points, dtype, model):
    """Without noise, against autograd."""
    x = points(9, 2, dtype=dtype).requires_grad_()
    (gradient,) = torch.autograd.grad(model(x).sum(), x)
    x = x.detach()
    out, _ = langevin_steps(x, model, keys_for(1, x), Steps([0.01], [0.0]))
    torch.testing.assert_close(out, x - 0.01 * gradient, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


@both_dtypes
def test_every_option_at_once(points, device, dtype):
    model, x = DoubleWellModel(), points(11, 3, dtype=dtype)
    temperature = torch.linspace(0.5, 2.0, 11, device=device)
    held = torch.arange(11, device=device) % 3 == 0
    steps, keys = Steps([0.01] * 7, [0.3] * 7, [0.5, 1.0, 2.0, 4.0, 8.0, 9.0, 9.0]), keys_for(7, x)
    out, draws = langevin_steps(x, model, keys, steps, box=(-0.9, 1.1), temperature=temperature, held=held, thin=3)
    root = temperature.to(dtype).sqrt().unsqueeze(1)
    states = plain(x, model, keys, steps, root, (-0.9, 1.1), held)
    close = {"rtol": TOLERANCE[dtype], "atol": TOLERANCE[dtype]}
    torch.testing.assert_close(out, states[-1], **close)
    torch.testing.assert_close(draws, torch.stack([states[2], states[5]]), **close)
    assert torch.equal(out[held], x[held])
    assert float(out[~held].max()) == pytest.approx(1.1)  # the box and the clip mattered
    assert float(model.gradient(x[~held]).abs().max()) > 0.5


@pytest.mark.parametrize("option", ["clip", "box", "temperature", "held", "thin"])
def test_each_option_alone(points, device, option):
    model, x = HarmonicModel(2.0), points(6, 2)
    steps, keys = Steps([0.1] * 4, [0.5] * 4, [0.7] * 4 if option == "clip" else None), keys_for(4, x)
    temperature = torch.full((6,), 3.0, device=device)
    held = torch.arange(6, device=device) == 4
    given = {"box": (-0.5, 0.6), "temperature": temperature, "held": held, "thin": 4}
    out, draws = langevin_steps(x, model, keys, steps, **{option: given[option]} if option in given else {})
    states = plain(x, model, keys, steps, math.sqrt(3) if option == "temperature" else 1.0,
                   given["box"] if option == "box" else None, held if option == "held" else None)  # fmt: skip
    torch.testing.assert_close(out, states[-1], rtol=2e-6, atol=2e-6)
    unaffected, _ = langevin_steps(x, model, keys, steps._replace(clip=None))
    assert torch.equal(out, unaffected) == (option == "thin")
    assert (draws is None) == (option != "thin")


def test_a_temperature_for_all(points, device):
    x, steps = points(6, 2), Steps([0.1], [0.5])
    out, _ = langevin_steps(x, HarmonicModel(), keys_for(1, x), steps, temperature=torch.tensor(4.0, device=device))
    expected, _ = langevin_steps(x, HarmonicModel(), keys_for(1, x), Steps([0.1], [1.0]))
    torch.testing.assert_close(out, expected)


@pytest.mark.filterwarnings("ignore:.*encountered:RuntimeWarning")  # of the interpreter's NumPy
def test_what_is_not_finite_is_not_hidden(points):
    """An entry that overflows is NaN, through a box and a clip, and its neighbours are as they were."""
    x = points(3, 2)
    x[1, 0] = 1e30
    steps, keys = Steps([0.01] * 2, [0.1] * 2, [1.0] * 2), keys_for(2, x)
    out, _ = langevin_steps(x, DoubleWellModel(), keys, steps, box=(-5.0, 5.0))
    assert out[1, 0].isnan()
    tame = x.clone()
    tame[1, 0] = 0.0
    others = torch.ones_like(x, dtype=torch.bool)
    others[1, 0] = False
    expected, _ = langevin_steps(tame, DoubleWellModel(), keys, steps, box=(-5.0, 5.0))
    assert torch.equal(out[others], expected[others])


def test_parameters_are_read_at_each_launch(points):
    model, x = HarmonicModel(1.0), points(4)
    keys, steps = keys_for(1, x), Steps([0.1], [0.0])
    torch.testing.assert_close(langevin_steps(x, model, keys, steps)[0], 0.9 * x)
    model.k = 3.0
    torch.testing.assert_close(langevin_steps(x, model, keys, steps)[0], 0.7 * x)


def test_memory_layouts_and_emptiness(points):
    x = points(3, 5)
    keys, steps = keys_for(2, x), Steps([0.1] * 2, [0.3] * 2)
    expected = langevin_steps(x, HarmonicModel(), keys, steps)[0]
    assert torch.equal(langevin_steps(x.T.contiguous().T, HarmonicModel(), keys, steps)[0], expected)
    out, draws = langevin_steps(x[:0], HarmonicModel(), keys, steps, thin=1)
    assert (out.shape, draws.shape) == ((0, 5), (2, 0, 5))


# energies of one's own -----------------------------------------------------------------------------------------------


class Quartic(ClosedFormModel):
    def __init__(self, a=1.0):
        super().__init__()
        self.a = a

    def forward(self, x, **model_kwargs):
        return self.a * x.pow(4).sum(-1)

    def gradient(self, x, **model_kwargs):
        return 4 * self.a * x.detach().pow(3)


def test_an_energy_of_ones_own(points, monkeypatch):
    monkeypatch.setattr("torchebm.cuda.elementwise._KNOWN", {})
    x = points(5, 2)
    assert "Quartic is not registered as elementwise" in obstacle(Quartic(), x, interpreter=True)
    slope = kernels.triton.jit(quartic_slope)
    register_elementwise(Quartic, slope, lambda model: (4 * model.a,))
    keys, steps = keys_for(3, x), Steps([0.01] * 3, [0.1] * 3)
    out, _ = langevin_steps(x, Quartic(0.5), keys, steps)
    torch.testing.assert_close(out, plain(x, Quartic(0.5), keys, steps)[-1], rtol=2e-6, atol=2e-6)
    register_elementwise(Quartic, slope, lambda model: (1.0, 2.0, 3.0, 4.0))
    with pytest.raises(ValueError, match="has 4 parameters; expected at most 3"):
        langevin_steps(x, Quartic(), keys, steps)


def quartic_slope(x, a, b, c):
    return a * x * x * x


def test_registering_says_what_is_wrong():
    with pytest.raises(TypeError, match="must be a class of models"):
        register_elementwise(Quartic(), "quartic", lambda model: ())
    with pytest.raises(ValueError, match="has no gradient of its own"):
        register_elementwise(EnergyModel, "plain", lambda model: ())


def test_subclasses_are_not_covered():
    class Shifted(HarmonicModel):
        def gradient(self, x, **model_kwargs):
            return self.k * (x.detach() - 1)

    assert elementwise(HarmonicModel()) is not None
    assert elementwise(Shifted()) is None


def test_obstacles(points):
    x = points(3, 2)
    assert obstacle(HarmonicModel(), x, interpreter=True) is None
    assert "float32 or float64" in obstacle(HarmonicModel(), x.half(), interpreter=True)
    assert "not registered" in obstacle(0.5 * HarmonicModel(), x, interpreter=True)
    keys, steps = keys_for(1, x), Steps([0.1], [0.0])
    with pytest.raises(ValueError, match="the fused kernel cannot run this: the chains are"):
        langevin_steps(x.bfloat16(), HarmonicModel(), keys, steps)
    with pytest.raises(ValueError, match=r"x has shape \[3, 2\]; expected \[batch, 5\]"):
        langevin_steps(x, HarmonicModel(dim=5), keys, steps)


def test_without_an_accelerator_and_without_triton(monkeypatch):
    if not torch.cuda.is_available():
        assert obstacle(HarmonicModel(), torch.zeros(2)) == "the chains are on cpu, not on an accelerator"
    monkeypatch.setattr(kernels, "triton", None)
    assert not kernels.available()
    assert not kernels.interpreted()
    x = torch.empty(2, device="meta")
    monkeypatch.setattr(torch.Tensor, "is_cuda", True)
    assert obstacle(HarmonicModel(), x) == 'Triton is not installed: pip install "torchebm[cuda]"'
