"""The command line: the main job, small, and one clear line for every kind of bad input."""

import json

import numpy as np
import pytest

import torchebm
from torchebm.cli import main

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
    assert run("evaluate", out) == 0
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
        (["train", "--data", "digits", "--out", "run", "--device", "abacus"], "abacus"),
        (["train", "--data", "digits", "--out", "run", "--sampler.step-size", "-1", "--n-steps", "1"], "step_size"),
        (["sample", "nowhere", "--out", "x.npy"], "holds no run"),
        (["report", "nowhere"], "holds no run"),
        (["evaluate", "nowhere"], "holds no run"),
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
    assert "digits" in capsys.readouterr().out


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
