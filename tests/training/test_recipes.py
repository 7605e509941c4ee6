"""Recipes: their facts, their settings and units, and that each of them trains, is kept, and is loaded again."""

import dataclasses
import json
import math

import numpy as np
import pytest
import torch

from torchebm.datasets import Data, load
from torchebm.losses import ImprovedContrastiveDivergence, JointContrastiveDivergence, class_logits
from torchebm.report.settings import field_docs
from torchebm.training import RECIPES, Recipe, load_run, recipe, train_run
from torchebm.training.recipes import Images, TrainingSettings
from torchebm.training.recipes.pixels import NoiseBuffer

SMALL = {
    "model": {"widths": {"residual": (4, 4), "dense": (8, 8), "strided": (4, 4), "convolutional": (4, 4)}},
    "sampler": {"n_steps": 2, "n_leapfrog_steps": 1},
    "loss": {"k_steps": 2, "buffer_size": 30},
    "training": {"n_steps": 3, "batch_size": 16, "checkpoint_every": 3, "warmup_steps": 1},
}


def with_settings(settings, **groups):
    """A recipe with some settings of some groups replaced; those that a group does not have are left out."""
    changes = {}
    for group, values in groups.items():
        old = getattr(settings, group)
        known = {field.name for field in dataclasses.fields(old)}
        changes[group] = dataclasses.replace(old, **{k: v for k, v in values.items() if k in known})
    return dataclasses.replace(settings, **changes)


def small(settings, data):
    """The recipe with little to compute; its network is the one that it has chosen, made narrow."""
    fitted = settings.fitted(data)
    new = with_settings(settings, **{group: SMALL[group] for group in ("sampler", "loss", "training")})
    network = getattr(fitted.model, "network", None)
    widths = SMALL["model"]["widths"].get(network) if network else (4, 4)
    return with_settings(new, model={"widths": widths, "hidden": (8,)})


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Forty images of 8 by 8, bytes, of three classes."""
    path = tmp_path_factory.mktemp("data") / "images.npz"
    generator = np.random.default_rng(0)
    np.savez(path, x=generator.integers(0, 256, (40, 8, 8), dtype=np.uint8), y=np.arange(40) % 3)
    return str(path)


@pytest.fixture(scope="module")
def plane(tmp_path_factory):
    """Three hundred points in the plane."""
    path = tmp_path_factory.mktemp("data") / "plane.npy"
    np.save(path, load("two_moons", torch.Generator().manual_seed(0)).x[:300].numpy())
    return str(path)


@pytest.fixture(scope="module")
def trained(images, plane, tmp_path_factory):
    """`trained(name)`: a tiny run of that recipe, trained once."""
    runs = {}

    def make(name):
        if name not in runs:
            source = images if "image" in RECIPES[name].kinds else plane
            folder = tmp_path_factory.mktemp("runs") / name
            runs[name] = train_run(source, folder, small(RECIPES[name], load(source)), progress=False)
        return runs[name]

    return make


every_recipe = pytest.mark.parametrize("name", RECIPES)


@every_recipe
def test_facts_and_meanings(name):
    settings = RECIPES[name]
    assert settings.name == name
    assert settings.source.startswith("ours") or "https://" in settings.source
    assert settings.purpose in ("density", "short-run generator")
    assert settings.figures
    assert set(settings.kinds) <= {"image", "table", "planar"}
    assert settings.kinds
    assert type(settings).__doc__
    for group in dataclasses.fields(settings):
        values = getattr(settings, group.name)
        meanings = field_docs(type(values))
        assert [f.name for f in dataclasses.fields(values) if not meanings.get(f.name)] == [], group.name
        assert type(values).__doc__


@every_recipe
def test_settings_survive_json(name):
    settings = RECIPES[name]
    values = json.loads(json.dumps(settings.values()))
    assert values["name"] == name
    assert type(settings).from_values(values) == settings
    assert isinstance(settings.training, TrainingSettings)


@every_recipe
@pytest.mark.filterwarnings("ignore::torchebm.core.SamplingDivergenceWarning")
def test_every_recipe_trains_and_is_loaded_again(name, trained):
    run = trained(name)
    x = run.sample(5, generator=torch.Generator().manual_seed(0))
    again = load_run(run.folder)
    assert again.recipe == run.recipe
    assert type(again.recipe) is type(RECIPES[name])
    assert again.step == 3
    assert x.shape == (5, *run.event_shape)
    torch.testing.assert_close(again.sample(5, generator=torch.Generator().manual_seed(0)), x, equal_nan=True)
    assert torch.equal(again.model(x[:2]), run.model(x[:2]))
    assert run.data_noise.shape == run.event_shape
    resumed = train_run(run.config["data"]["source"], run.folder, run.recipe, resume=True, progress=False)
    assert resumed.step == 3


def test_a_run_that_was_stopped_goes_on_with_the_settings_that_it_read_off_the_data(images, tmp_path):
    data = load(images)
    settings = small(recipe("mnist"), data)
    longer = with_settings(settings, training={"n_steps": 5})
    train_run(images, tmp_path / "run", settings, progress=False)
    assert train_run(images, tmp_path / "run", longer, resume=True, progress=False).step == 5
    other = with_settings(longer, sampler={"noise": 0.1})
    with pytest.raises(ValueError, match="other settings"):
        train_run(images, tmp_path / "run", other, resume=True, progress=False)


# what depends on the data --------------------------------------------------------------------------------------------


def test_the_energy_of_diffusion_recovery_is_that_of_its_first_level(trained):
    run = trained("diffusion-recovery")
    x, levels = run.data()[0].x[:3], run.recipe.levels
    network, z = run.recipe.trained_part(run.model), x / 127.5 - 1
    step = 1e-4 * (1 - float(levels.signal[1]) ** 2)
    with torch.no_grad():
        expected = network(float(levels.signal[1]) * z, level=torch.zeros(3).long()) / (2 * step)
        found = run.model(x) - 64 * math.log(127.5)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-2)
    assert run.sampler.step_size == pytest.approx(step, rel=1e-4)


def test_images_are_scaled_to_the_box_and_back(trained):
    run = trained("mnist")
    x = run.data()[0].x[:3]
    assert run.recipe.model.pixels == (0.0, 255.0)
    inner, _ = run.model.coordinates()
    constant = run.model(x) - inner(x / 127.5 - 1)
    assert torch.allclose(constant, torch.full((3,), 64 * math.log(127.5)), atol=1e-2)  # the Jacobian
    samples = run.sample(4, generator=torch.Generator().manual_seed(0))
    assert samples.min() >= 0
    assert samples.max() <= 255
    assert run.data_noise[0, 0, 0] == pytest.approx(0.005 * 127.5)


def test_tables_are_scaled_by_their_columns(tmp_path):
    x = torch.randn(400, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 100.0, 0.01]) + 7
    np.save(tmp_path / "x.npy", x.numpy())
    data = load(str(tmp_path / "x.npy"))
    r = with_settings(recipe("short-run"), loss={"data_noise": 0.5})
    model = r.fitted(data).build_model(data.x)
    z = model.coordinates()[1].inv(data.x)
    assert torch.allclose(z.mean(0), torch.zeros(3), atol=1e-3)
    assert torch.allclose(z.std(0), torch.ones(3), atol=1e-3)
    torch.testing.assert_close(r.fitted(data).data_noise(data.x), 0.5 * data.x.std(0), rtol=1e-5, atol=0)


def test_chains_begin_in_noise_that_knows_nothing_of_the_data(generator):
    like = torch.full((10, 1, 4, 4), -1.0)
    x = NoiseBuffer(2000, "uniform", (-1.0, 1.0)).begin(2000, like, generator=generator)
    assert x.min() >= -1
    assert x.max() <= 1
    assert abs(x.mean()) < 5 * math.sqrt(1 / 3 / x.numel())
    assert abs(x.var() - 1 / 3) < 5 * math.sqrt(4 / 45 / x.numel())
    y = NoiseBuffer(2000, "gaussian", (-1.0, 1.0)).begin(2000, like, generator=generator)
    assert abs(y.var() - 1) < 5 * math.sqrt(2 / y.numel())


def test_generators_from_gaussian_noise_begin_there_after_training_too(plane):
    """Without a step taken, 2,000 samples have the moments of the data's columns; uniform starts have others."""
    data = load(plane)
    r = with_settings(recipe("short-run"), sampler={"noise": 0.0, "step_size": 1e-12}).fitted(data)
    model, g = r.build_model(data.x), torch.Generator().manual_seed(0)
    start = torch.zeros(2000, 2)
    x = r.draw(model, r.build_sampler(model), start, 1, noise=torch.zeros(2), generator=g)
    assert ((x.mean(0) - data.x.mean(0)).abs() < 5 * data.x.std(0) / math.sqrt(2000)).all()
    assert ((x.std(0) / data.x.std(0) - 1).abs() < 5 / math.sqrt(4000)).all()


def test_samples_of_a_class_are_freed_of_noise_by_its_own_energy(trained):
    run = trained("jem-density")
    start, label = run.noise(4, torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 2])
    options = {"noise": run.data_noise, "label": label}
    g = torch.Generator().manual_seed(1)
    noisy_recipe = with_settings(run.recipe, sampler={"denoise": False})
    noisy = noisy_recipe.draw(run.model, run.sampler, start, 2, generator=g, **options)
    g = torch.Generator().manual_seed(1)
    clean = run.recipe.draw(run.model, run.sampler, start, 2, generator=g, **options)
    torch.testing.assert_close(clean, noisy - run.data_noise**2 * run.model.gradient(noisy, label=label))
    other = noisy - run.data_noise**2 * run.model.gradient(noisy)
    assert not torch.allclose(clean, other)


@pytest.mark.parametrize("name", ["mnist", "igebm", "jem", "improved-cd", "convergent-images"])
def test_tables_are_refused_by_recipes_of_images(name):
    with pytest.raises(ValueError, match="is for data of kind image; two_moons is a table"):
        RECIPES[name].fitted(load("two_moons", torch.Generator().manual_seed(0)))


def test_the_network_and_its_widths_are_chosen_together(images):
    data = load(images)
    assert recipe("jem").fitted(data).model.network == "dense"
    middle = Data(torch.zeros(4, 1, 28, 28), "image", "middle", torch.tensor([0, 1, 1, 0]), bounds=(0.0, 1.0))
    assert recipe("jem").fitted(middle).model.network == "strided"
    photographs = Data(torch.zeros(4, 3, 32, 32), "image", "photographs", torch.tensor([0, 1, 1, 0]), bounds=(0.0, 1.0))
    assert recipe("jem").fitted(photographs).model.network == "wide-residual"
    with pytest.raises(ValueError, match=r"give --model.widths with --model.network dense"):
        with_settings(recipe("mnist"), model={"network": "dense"}).fitted(data)
    dense = with_settings(recipe("mnist"), model={"network": "dense", "widths": (8,)}).fitted(data)
    assert dense.build_model(data.x)(data.x[:2]).shape == (2,)


# classes -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["jem", "jem-density"])
def test_samples_of_a_class(name, trained):
    run = trained(name)
    assert run.recipe.model.n_classes == 3
    label = torch.tensor([0, 1, 2, 2])
    x = run.sample(4, label=label, generator=torch.Generator().manual_seed(0))
    assert x.shape == (4, 1, 8, 8)
    assert class_logits(run.model, x).shape == (4, 3)
    one = run.sample(4, label=1, generator=torch.Generator().manual_seed(0))
    assert torch.equal(one[1], x[1])
    assert not torch.equal(one[0], x[0])
    for wrong in (3, -1):
        with pytest.raises(ValueError, match="whole number from 0 to 2"):
            run.sample(4, label=wrong)


def test_classes_come_in_the_shares_of_the_data(trained):
    r = trained("jem-density").recipe
    assert sum(r.model.class_shares) == pytest.approx(1.0)
    label = r.condition(30_000, torch.Generator().manual_seed(0))["label"]
    shares = torch.bincount(label, minlength=3) / len(label)
    assert (shares - torch.tensor(r.model.class_shares)).abs().max() < 5 * math.sqrt(0.25 / 30_000)
    assert with_settings(r, sampler={"by_class": False}).condition(10) == {}


def test_losses_are_those_of_the_recipes(trained):
    for name, kind in (("jem", JointContrastiveDivergence), ("jem-density", JointContrastiveDivergence),
                       ("improved-cd", ImprovedContrastiveDivergence)):  # fmt: skip
        run = trained(name)
        x = run.data()[0].x
        loss = {"classification_weight": 0.7, "entropy_weight": 0.2, "kl_weight": 0.4, "data_noise": 0.6}
        altered = with_settings(run.recipe, loss=loss)
        loss_fn = altered.build_trainer(altered.build_model(x), x, out_dir=None, seed=0).loss_fn
        assert isinstance(loss_fn, kind)
        if name != "jem-density":
            assert isinstance(loss_fn.replay_buffer, NoiseBuffer)
            assert loss_fn.replay_buffer.fresh == "uniform"
            assert loss_fn.data_noise == 0.6
        for setting in ("classification_weight", "entropy_weight", "kl_weight"):
            assert getattr(loss_fn, setting, loss[setting]) == loss[setting]


def test_data_without_classes_are_refused(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((20, 8, 8), dtype=np.uint8))
    data = load(str(tmp_path / "x.npy"))
    for name in ("jem", "jem-density"):
        with pytest.raises(ValueError, match=r"learns classes, and .* has no labels"):
            RECIPES[name].fitted(data)
    labelled = dataclasses.replace(data, labels=torch.arange(20))
    with pytest.raises(ValueError, match=r"from 0 to 4; those of .* go from 0 to 19"):
        with_settings(recipe("jem"), model={"n_classes": 5}).fitted(labelled)


def test_recipes_without_classes_say_so(trained):
    for name in ("mnist", "diffusion-recovery", "digits"):
        with pytest.raises(ValueError, match="learns no classes"):
            trained(name).sample(2, label=0)


# the registry --------------------------------------------------------------------------------------------------------

FIRST = {
    "model": {"hidden": [512], "standardise_by": "event"},
    "sampler": {"step_size": 0.15, "jitter": 0.2, "n_leapfrog_steps": 10, "n_steps": 400, "denoise": True},
    "loss": {"k_steps": 2, "buffer_size": 4000, "new_sample_ratio": 0.0, "energy_reg_weight": 0.001,
             "data_noise": 0.37},
    "training": {"n_steps": 9000, "batch_size": 128, "learning_rate": 0.01, "warmup_steps": 200,
                 "final_learning_rate": 0.05, "ema_decay": 0.999, "grad_clip_norm": 1.0, "checkpoint_every": 1000,
                 "n_threads": 1},
}  # fmt: skip


def test_settings_of_the_first_version_are_those_of_today():
    assert Images.from_values(FIRST) == recipe("images")
    tabular = {**FIRST, "model": {"hidden": [128], "standardise_by": "column"},
               "loss": {**FIRST["loss"], "data_noise": 0.2},
               "training": {**FIRST["training"], "n_steps": 3000, "learning_rate": 1e-3}}  # fmt: skip
    assert type(recipe("tabular")).from_values(tabular) == recipe("tabular")


def test_runs_of_the_first_version_are_loaded_and_resumed(trained, images):
    run = trained("images")
    path = run.folder / "config.json"
    kept = path.read_text()
    config = json.loads(kept)
    del config["recipe"]["name"]
    path.write_text(json.dumps(config))
    try:
        assert load_run(run.folder).recipe == run.recipe
        assert train_run(images, run.folder, run.recipe, resume=True, progress=False).step == 3
        config = json.loads(kept)
        config["recipe"]["loss"]["magic"] = 3
        path.write_text(json.dumps(config))
        with pytest.raises(ValueError, match=r"images.loss has no setting 'magic'"):
            load_run(run.folder)
    finally:
        path.write_text(kept)


def test_a_recipe_of_ones_own(images, tmp_path, monkeypatch):
    @dataclasses.dataclass(frozen=True)
    class Mine(Images):
        """As images, and mine."""

        name = "mine"

    settings = small(Mine(), load(images))
    with pytest.raises(ValueError, match=r"RECIPES\['mine'\] = Mine\(\)"):
        train_run(images, tmp_path / "run", settings, progress=False)
    assert not (tmp_path / "run").exists()
    monkeypatch.setitem(RECIPES, "mine", Mine())
    train_run(images, tmp_path / "run", settings, progress=False)
    assert isinstance(load_run(tmp_path / "run").recipe, Mine)
    with pytest.raises(ValueError, match=r"no recipe Recipe is registered under ''"):
        train_run(images, tmp_path / "other", Recipe(), progress=False)


def test_unknown_names_are_told_the_nearest():
    with pytest.raises(ValueError, match=r"unknown recipe 'minst'; there are .*. Did you mean 'mnist'\?"):
        recipe("minst")
