"""Detection of outsiders: the AUROC, the scores, and the outsiders that are made."""

import math

import pytest
import torch

from torchebm.core import BaseModel, EnergyModel, HarmonicModel
from torchebm.evaluation import auroc, inverted, out_of_distribution, outsiders, shuffled, uniform_noise

F64 = torch.float64


@pytest.mark.parametrize("step", [0.0, 0.5, 3.0], ids=["no ties", "ties", "mostly ties"])
def test_auroc_counts_pairs(step, generator):
    """A loop over pairs, and scikit-learn; ties are half."""
    metrics = pytest.importorskip("sklearn.metrics")
    inside = torch.randn(40, generator=generator, dtype=F64)
    outside = torch.randn(25, generator=generator, dtype=F64) + 0.5
    if step:
        inside, outside = (inside / step).round(), (outside / step).round()
    pairs = [0.5 if x == y else float(y > x) for x in inside for y in outside]
    found, error = auroc(inside, outside)
    table = torch.tensor(pairs, dtype=F64).reshape(40, 25)
    assert error == pytest.approx(float((table.mean(1).var() / 40 + table.mean(0).var() / 25).sqrt()), rel=1e-10)
    assert found == pytest.approx(sum(pairs) / 1000, rel=1e-12)
    truth = torch.cat([torch.zeros(40), torch.ones(25)]).numpy()
    assert found == pytest.approx(metrics.roc_auc_score(truth, torch.cat([inside, outside]).numpy()), rel=1e-12)
    assert auroc(outside, inside)[0] == pytest.approx(1 - found, rel=1e-12)


def test_standard_errors_are_those_of_repetitions(generator):
    """800 pairs of sets: their spread, against the mean of the errors, to a tenth (four of its standard errors)."""
    found = torch.tensor([auroc(torch.randn(50, generator=generator), 1 + torch.randn(30, generator=generator))
                          for _ in range(800)])  # fmt: skip
    assert float(found[:, 0].std()) == pytest.approx(float(found[:, 1].mean()), rel=0.15)
    exact = 0.5 * (1 + math.erf(1 / 2))  # P(y > x) for means one apart: Φ(1 / √2)
    assert abs(float(found[:, 0].mean()) - exact) < 5 * float(found[:, 0].std()) / math.sqrt(800)


def test_one_outsider_has_no_standard_error():
    value, error = auroc(torch.zeros(5), torch.ones(1))
    assert value == 1.0
    assert math.isnan(error)


class Classifier(BaseModel):
    """Three classes in the plane; energies depend on a condition too."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor([[0.8, 0.0], [0.0, 0.8], [-0.8, -0.8]]))
        self.drop = torch.nn.Dropout(0.5)

    def logits(self, x):
        return self.drop(x) @ self.weight.T

    def forward(self, x, tilt=0.0):
        return -self.logits(x).logsumexp(1) + 0.5 * x.square().sum(1) + tilt * x[:, 0]


def test_scores_are_what_they_say(generator):
    model, inside = Classifier(), 2 * torch.randn(30, 2, generator=generator)
    others = {"near": torch.randn(20, 2, generator=generator), "far": 3 * torch.randn(25, 2, generator=generator)}
    found = out_of_distribution(model, inside, others, batch_size=7)
    model.eval()

    def suspicion(x):
        return {
            "energy": model(x).detach(),
            "score_norm": model.gradient(x).norm(dim=1),
            "max_probability": -model.logits(x).detach().double().softmax(1).amax(1),
        }

    expected, reference = {}, suspicion(inside)
    for name, x in others.items():
        for score, values in suspicion(x).items():
            expected.setdefault(score, {})[name] = auroc(reference[score], values)[0]
    assert list(found.auroc) == ["energy", "score_norm", "max_probability"]
    for score, row in expected.items():
        assert found.auroc[score] == pytest.approx(row, abs=1e-12), score
    alone = out_of_distribution(model, inside, others, ["score_norm"])
    assert alone.auroc == {"score_norm": found.auroc["score_norm"]}


def test_confidence_does_not_saturate():
    """Logits apart by 50 and 60: as probabilities both are 1, and yet one is surer."""
    model = EnergyModel(lambda x: x[:, 0])
    model.logits = lambda x: torch.cat([x, torch.zeros_like(x)], 1)
    found = out_of_distribution(model, torch.full((4, 1), 60.0), {"less sure": torch.full((5, 1), 50.0)})
    assert found.auroc["max_probability"] == {"less sure": 1.0}


def test_conditions_and_modes(generator):
    """The model sees its condition, in `eval()`, and is left in the mode that it was in, without gradients."""
    model, x = Classifier().train(), torch.randn(20, 2, generator=generator)
    plain, tilted = (out_of_distribution(model, x, {"shifted": x + 2}, ["energy"], model_kwargs=kwargs)
                     for kwargs in (None, {"tilt": 50.0}))  # fmt: skip
    assert tilted.auroc["energy"]["shifted"] > plain.auroc["energy"]["shifted"]
    again = out_of_distribution(model, x, {"shifted": x + 2}, ["energy"])
    assert again.auroc == plain.auroc
    assert model.training
    assert model.weight.grad is None
    assert model.weight.requires_grad


def test_the_table_has_a_row_for_each_score(generator):
    x = torch.randn(20, 2, generator=generator)
    text = repr(out_of_distribution(HarmonicModel(dim=2), x, {"one": x + 9, "two": x * 0.1}))
    lines = text.splitlines()
    assert lines[0].split() == ["AUROC", "one", "two"]
    assert lines[1].split()[:2] == ["energy", "1.000"]
    assert len({len(line) for line in lines}) == 1
    assert len(lines) == 3


# outsiders ------------------------------------------------------------------------------------------------------------


def test_outsiders_of_images(generator):
    """The negative over the range of all pixels; noise over the same; pixels moved about, channels together."""
    x = torch.rand(40, 2, 5, 5, generator=generator, dtype=F64) * 16
    x[:, 1] = 100 + x[:, 0]
    before = x.clone()
    made = outsiders(x, generator)
    assert torch.equal(x, before)
    assert {name: (t.shape, t.dtype) for name, t in made.items()} == dict.fromkeys(made, (x.shape, x.dtype))
    torch.testing.assert_close(made["inverted"], x.max() + x.min() - x)
    noise = made["uniform"]
    assert x.min() <= noise.min() < x.min() + 1
    assert x.max() - 1 < noise.max() <= x.max()
    moved = made["shuffled"]
    torch.testing.assert_close(moved[:, 1], 100 + moved[:, 0])
    torch.testing.assert_close(moved[:, 0].flatten(1).sort(1).values, x[:, 0].flatten(1).sort(1).values)
    assert (moved != x).flatten(1).any(1).all()
    ranks = moved[:, 0].flatten(1).argsort(1).argsort(1)
    came_from = x[:, 0].flatten(1).argsort(1).gather(1, ranks)
    assert len(came_from.unique(dim=0)) == 40  # each image has an order of its own


def test_outsiders_of_tables(generator):
    """Each column keeps its range and its values, and no row its own."""
    x = torch.stack([torch.arange(50.0), 1000 + torch.arange(50.0)], 1)
    made = outsiders(x, generator)
    torch.testing.assert_close(made["inverted"], x.flip(0))
    assert (made["uniform"].amin(0) >= x.amin(0)).all()
    assert (made["uniform"].amax(0) <= x.amax(0)).all()
    moved = made["shuffled"]
    assert torch.equal(moved.sort(0).values, x)
    assert (moved[:, 1] - moved[:, 0] != 1000).any()


def test_outsiders_within_given_bounds(generator):
    x = torch.rand(10, 1, 2, 2, generator=generator)
    assert torch.equal(inverted(x, (-1.0, 1.0)), -x)
    assert uniform_noise(x, generator, (5.0, 6.0)).min() >= 5


def test_same_generator_same_outsiders(seeded):
    x, before = torch.rand(10, 3, 2, 2), torch.get_rng_state()
    one, other = (outsiders(x, seeded(1)) for _ in range(2))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"outside": {}}, TypeError, "outside must be a dict of sets by name"),
        ({"outside": torch.zeros(3, 2)}, TypeError, "outside must be a dict"),
        ({"outside": {"odd": torch.zeros(3, 3)}}, ValueError, r"outside\['odd'\] holds points of shape \[3\]"),
        ({"outside": {"odd": torch.full((3, 2), math.nan)}}, ValueError, r"outside\['odd'\] has entries .* 3 of 3"),
        ({"inside": torch.zeros(0, 2)}, ValueError, "inside holds 0 points"),
        ({"scores": ["entropy"]}, ValueError, "scores must be some of"),
        ({"scores": "energy"}, ValueError, "scores must be some of"),
        ({"scores": ["max_probability"]}, ValueError, r"EnergyModel has no logits\(x\)"),
        ({"model": EnergyModel(lambda x: x[:, 0].log())}, ValueError, "energy of inside has entries that are not fin"),
        ({"batch_size": 0}, ValueError, "batch_size must be at least 1"),
    ],
    ids=["none", "tensor", "shape", "nan", "empty", "score", "text", "logits", "energy", "batch"],
)
def test_bad_input(change, error, message):
    arguments = {"inside": -torch.ones(4, 2), "outside": {"odd": torch.ones(3, 2)}, **change}
    with pytest.raises(error, match=message):
        out_of_distribution(arguments.pop("model", EnergyModel(lambda x: x[:, 0])), **arguments)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: inverted(torch.zeros(2, 2), (1.0, 1.0)), "bounds must be .low, high. with low < high"),
        (lambda: shuffled(torch.full((2, 2), math.nan)), "x has entries that are not finite"),
        (lambda: uniform_noise(torch.zeros(0, 2)), "x holds 0 points"),
    ],
)
def test_bad_data_makes_no_outsiders(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_logits_must_be_of_classes():
    model = EnergyModel(lambda x: x[:, 0])
    model.logits = lambda x: x[:, :1]
    with pytest.raises(ValueError, match=r"logits returned shape \[4, 1\]; expected \[4, class\]"):
        out_of_distribution(model, torch.ones(4, 2), {"one": torch.zeros(4, 2)})
