"""The command line: the main job, small, and one clear line for every kind of bad input."""

import dataclasses
import json

import numpy as np
import pytest

import torchebm
from torchebm.cli import commands, main
from torchebm.training import RECIPES

SMALL = ["--n-steps", "12", "--n-samples", "60", "--sampler.n-steps", "5", "--loss.buffer-size", "200"]


def run(*arguments):
    """Exit code of the command."""
    try:
        main([str(argument) for argument in arguments])
    except SystemExit as stop:
        return stop.code or 0
    return 0


@pytest.fixture
def wine(tmp_path):
    load_wine = pytest.importorskip("sklearn.datasets").load_wine
    path = tmp_path / "wine.csv"
    load_wine(as_frame=True).data.to_csv(path, index=False)
    return path


def test_digits_from_end_to_end(tmp_path, capsys):
    out = tmp_path / "digits"
    assert run("train", "--data", "digits", "--out", out, *SMALL) == 0
    assert capsys.readouterr().out.strip().splitlines()[-1] == str(out / "report.html")
    assert np.load(out / "samples.npy").shape == (60, 1, 8, 8)
    figures = json.loads((out / "evaluation.json").read_text())
    assert len(figures["class_shares"]) == 10
    assert {"sw2_ratio", "nearest_ratio", "c2st"} <= figures.keys() & figures["gaussian"].keys()

    run_again = torchebm.load_run(out)
    assert run_again.step == 12
    assert run_again.sample(3, n_steps=2).shape == (3, 1, 8, 8)
    assert run("sample", out, "-n", 7, "--n-steps", 2, "--out", tmp_path / "seven.npy") == 0
    assert np.load(tmp_path / "seven.npy").shape == (7, 1, 8, 8)
    assert run("sample", out, "-n", 7, "--n-steps", 2, "--out", tmp_path / "again.npy") == 0
    assert np.array_equal(np.load(tmp_path / "seven.npy"), np.load(tmp_path / "again.npy"))
    assert run("evaluate", out, "--quick") == 0
    assert json.loads((out / "evaluation.json").read_text()) == figures
    assert run("report", out) == 0

    assert run("train", "--data", "digits", "--out", out, *SMALL) == 2
    assert "--resume" in capsys.readouterr().err
    assert run("train", "--data", "digits", "--out", out, "--resume", *SMALL[:1], "20", *SMALL[2:]) == 0
    assert torchebm.load_run(out).step == 20


def test_a_table_keeps_its_units(tmp_path, wine):
    out = tmp_path / "wine"
    assert run("train", "--data", wine, "--out", out, *SMALL) == 0
    samples = np.load(out / "samples.npy")
    data = np.genfromtxt(wine, delimiter=",", skip_header=1)
    assert samples.shape == (60, 13)
    assert np.all(np.abs(samples.mean(0) - data.mean(0)) < 2 * data.std(0))
    assert run("sample", out, "-n", 5, "--n-steps", 2, "--out", tmp_path / "five.csv") == 0
    assert (tmp_path / "five.csv").read_text().splitlines()[0].split(",")[0] == "alcohol"
    run_again = torchebm.load_run(out)
    train, held_out = run_again.data()
    assert len(train) + len(held_out) == len(data)
    assert run_again.model(train.x[:4]).shape == (4,)


def write(path, text):
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a,b\n" + "1,2\n" * 16 + "1,\n" + "3,4\n", "row 17"),
        ("a,b\n1,2\n3,four\n", "four"),
        ("", "empty"),
    ],
)
def test_bad_tables_give_one_line(tmp_path, capsys, content, message):
    path = write(tmp_path / "bad.csv", content)
    assert run("train", "--data", path, "--out", tmp_path / "run") == 2
    error = capsys.readouterr().err.strip()
    assert message in error
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--data", "missing.csv", "--out", "run"], "no such file"),
        (["train", "--data", "digits", "--out", "run", "--recipe", "digts"], "Did you mean 'digits'"),
        (["train", "--data", "digits", "--out", "run", "--n-steps", "0"], "--n-steps must be at least 1"),
        (["train", "--data", "digits", "--out", "run", "--n-steps", "20", "--training.n-steps", "40"], "one setting"),
        (["train", "--data", "digits", "--out", "run", "--device", "abacus"], "abacus"),
        (["train", "--data", "digits", "--out", "run", "--sampler.step-size", "-1", "--n-steps", "1"], "step_size"),
        (["sample", "nowhere", "--out", "x.npy"], "holds no run"),
        (["report", "nowhere"], "holds no run"),
        (["evaluate", "nowhere"], "holds no run"),
        (["recipes", "minst"], "Did you mean 'mnist'"),
        (["train", "--data", "two_moons", "--out", "run", "--recipe", "mnist"], "is for data of kind image"),
        (["train", "--data", "two_moons", "--out", "run", "--recipe", "jem-density"], "learns classes"),
    ],
)
def test_bad_input_gives_one_line_and_code_2(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert run(*arguments) == 2
    error = capsys.readouterr().err.strip()
    assert message in error
    assert len(error.splitlines()) == 1
    assert "Traceback" not in error


def test_a_directory_that_is_no_run_is_not_replaced(tmp_path, capsys):
    (tmp_path / "thesis.tex").write_text("years of work")
    assert run("train", "--data", "digits", "--out", tmp_path, "--overwrite", *SMALL) == 2
    assert "not replaced" in capsys.readouterr().err
    assert (tmp_path / "thesis.tex").exists()


def test_resuming_with_other_settings_is_refused(tmp_path, capsys):
    out = tmp_path / "run"
    assert run("train", "--data", "digits", "--out", out, *SMALL[:-2], "--n-samples", "0") == 0
    assert run("train", "--data", "digits", "--out", out, *SMALL[:-2], "--resume", "--seed", "1") == 2
    assert "seed" in capsys.readouterr().err


def test_help_and_recipes(capsys):
    for command in ("train", "sample", "evaluate", "report"):
        assert run(command, "--help") == 0
        assert f"torchebm {command}" in capsys.readouterr().out
    assert run("recipes") == 0
    listing = capsys.readouterr().out
    for name, settings in RECIPES.items():
        assert any(line.split()[:1] == [name] for line in listing.splitlines())
        assert settings.source.split()[0] in listing
    assert "short-run generator" in listing


@pytest.mark.parametrize("name", RECIPES)
def test_one_recipe_shows_every_setting_with_its_meaning(name, capsys):
    assert run("recipes", name) == 0
    shown = capsys.readouterr().out
    for group in dataclasses.fields(RECIPES[name]):
        for field in dataclasses.fields(getattr(RECIPES[name], group.name)):
            dashed = field.name.replace("_", "-")
            assert f"--{group.name}.{dashed}" in shown or f"--{group.name}.no-{dashed}" in shown
    assert "updates" in shown.lower()


@pytest.mark.parametrize("name", RECIPES)
def test_help_is_not_taken_from_comments(name, capsys):
    assert run("train", "--recipe", name, "--help") == 0
    assert "ignore[" not in capsys.readouterr().out


@pytest.mark.parametrize("name", RECIPES)
def test_every_setting_of_a_recipe_is_an_option(name):
    """What `torchebm recipes NAME` shows is read back to the very recipe, and one number more is taken over."""
    import tyro

    from torchebm.cli.commands import Train
    from torchebm.report.reproduction import option

    settings, words = RECIPES[name], ["--data", "digits", "--out", "run", "--recipe", name]
    for group in dataclasses.fields(settings):
        values = getattr(settings, group.name)
        for field in dataclasses.fields(values):
            words += option(group.name, field.name, getattr(values, field.name))
    assert tyro.cli(Train, args=words, default=Train.with_recipe_of(words)).settings == settings
    words = [*words[:6], "--sampler.n-steps", "7", "--training.learning-rate", "0.5"]
    read = tyro.cli(Train, args=words, default=Train.with_recipe_of(words)).settings
    assert type(read) is type(settings)
    assert (read.sampler.n_steps, read.training.learning_rate) == (7, 0.5)


def test_a_thorough_evaluation_of_classes(tmp_path, capsys):
    out = tmp_path / "classes"
    assert run("train", "--data", "digits", "--recipe", "jem-density", "--out", out, *SMALL) == 0
    assert run("sample", out, "-n", 4, "--n-steps", 2, "--label", 7, "--out", tmp_path / "sevens.npy") == 0
    assert run("sample", out, "-n", 4, "--n-steps", 2, "--label", 10, "--out", tmp_path / "none.npy") == 2
    assert "whole number from 0 to 9" in capsys.readouterr().err
    assert run("evaluate", out, "--multiples", 1, 2) == 0
    figures = json.loads((out / "evaluation.json").read_text())
    chapters = {"two_sample_tests", "classification", "out_of_distribution", "long_run", "log_likelihood"}
    assert chapters <= figures.keys()
    assert "divergence" not in figures
    assert figures["long_run"]["steps"] == [5, 10]
    assert 0 <= figures["classification"]["conditional_accuracy"] <= 1
    assert set(figures["out_of_distribution"]["auroc"]) == {"energy", "score_norm", "max_probability"}
    shown = capsys.readouterr().out
    for words in ("Verdict:", "AUROC", "Held-out likelihood", "p-value", "classifies rightly"):
        assert words in shown
        assert words in (out / "report.html").read_text()
    assert run("report", out) == 0  # the same figures, read again
    assert "AUROC" in (out / "report.html").read_text()


def test_a_thorough_evaluation_of_a_known_density(tmp_path):
    out = tmp_path / "moons"
    assert run("train", "--data", "two_moons", "--recipe", "tabular", "--out", out, *SMALL) == 0
    assert run("evaluate", out, "--multiples", 1, 2) == 0
    figures = json.loads((out / "evaluation.json").read_text())
    assert "classification" not in figures
    assert "out_of_distribution" not in figures
    assert figures["divergence"]["kl"] > 0
    assert abs(figures["divergence"]["log_z"] - figures["log_likelihood"]["log_z"]["estimate"]) < 0.5


def test_an_energy_without_a_normaliser_has_the_reason_in_its_place(tmp_path, monkeypatch):
    from torchebm.cli import judging

    out = tmp_path / "moons"
    assert run("train", "--data", "two_moons", "--recipe", "tabular", "--out", out, *SMALL[:2], "--n-samples", "0") == 0

    def refuse(*arguments):
        raise judging.UnboundedEnergyError("it falls\nwithout end")

    for name in ("tests", "long_chains", "divergence"):
        monkeypatch.setattr(judging, name, lambda *arguments: {})
    monkeypatch.setattr(judging, "likelihood", refuse)
    figures = judging.thorough(torchebm.load_run(out), None, (1, 2))
    assert figures["log_likelihood"] == {"refused": "it falls without end"}
    assert figures.keys() == {"two_sample_tests", "long_run", "divergence", "log_likelihood"}


def test_samples_of_an_earlier_step_are_not_judged(tmp_path):
    out = tmp_path / "run"
    assert run("train", "--data", "digits", "--out", out, *SMALL) == 0
    before = np.load(out / "samples.npy")
    longer = ["--n-steps", "14", "--n-samples", "0", *SMALL[4:]]
    assert run("train", "--data", "digits", "--out", out, "--resume", *longer) == 0
    figures = (out / "evaluation.json").read_text()
    assert run("report", out) == 0
    assert not np.array_equal(np.load(out / "samples.npy")[: len(before)], before)
    assert (out / "evaluation.json").read_text() != figures


def test_a_folder_named_like_a_built_in_does_not_hide_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits").mkdir()
    assert run("train", "--data", "digits", "--out", "run", *SMALL[:2], "--n-samples", "0", *SMALL[4:]) == 0
    assert torchebm.load_run("run").data()[0].event_shape == (1, 8, 8)


def test_another_project_is_not_replaced_for_its_config(tmp_path, capsys):
    (tmp_path / "config.json").write_text('{"name": "x"}')
    (tmp_path / "thesis.tex").write_text("years of work")
    assert run("train", "--data", "digits", "--out", tmp_path, "--overwrite", *SMALL) == 2
    assert "not replaced" in capsys.readouterr().err
    assert run("report", tmp_path) == 2
    assert "config.json" in capsys.readouterr().err


def test_a_run_that_cannot_begin_leaves_and_replaces_nothing(tmp_path):
    out = tmp_path / "run"
    assert run("train", "--data", "digits", "--out", out, "--sampler.step-size", "-1") == 2
    assert not out.exists()
    assert run("train", "--data", "digits", "--out", out, *SMALL[:2], "--n-samples", "0", *SMALL[4:]) == 0
    (out / "notes.txt").write_text("mine")
    assert run("train", "--data", "digits", "--out", out, "--overwrite", "--model.hidden", "-3") == 2
    assert torchebm.load_run(out).step == 12
    assert run("train", "--data", "digits", "--out", out, "--overwrite", *SMALL[:2], "--n-samples", "0") == 0
    assert (out / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("rows", "message"),
    [("1,2\n" * 40, "are equal"), ("".join(f"{i},{i * i}\n" for i in range(5)), "at least 10")],
)
def test_tables_without_a_density_are_refused(tmp_path, capsys, rows, message):
    path = write(tmp_path / "bad.csv", "a,b\n" + rows)
    assert run("train", "--data", path, "--out", tmp_path / "run") == 2
    assert message in capsys.readouterr().err


def test_a_small_table_goes_through_with_the_figures_it_allows(tmp_path):
    rows = "".join(f"{i % 4},{i * i % 7}\n" for i in range(14))
    path = write(tmp_path / "small.csv", "a,b\n" + rows)
    assert run("train", "--data", path, "--out", tmp_path / "run", *SMALL) == 0
    assert json.loads((tmp_path / "run/evaluation.json").read_text())["c2st"] is None
    assert run("report", tmp_path / "run") == 0


def test_samples_go_nowhere_before_the_directory_exists(tmp_path, capsys):
    assert run("sample", tmp_path, "--out", tmp_path / "missing" / "x.npy") == 2
    assert "make it first" in capsys.readouterr().err


def test_each_kind_of_data_has_a_recipe(tmp_path):
    np.save(tmp_path / "images.npy", np.zeros((3, 8, 8), dtype=np.uint8))
    np.save(tmp_path / "table.npy", np.zeros((3, 8), dtype=np.float32))
    sources = ["digits", "rings", str(tmp_path), str(tmp_path / "images.npy"), str(tmp_path / "table.npy"), "x.csv"]
    chosen = [commands._recipe_for(source) for source in sources]
    assert chosen == ["digits", "toy-2d", "images", "images", "tabular", "tabular"]
