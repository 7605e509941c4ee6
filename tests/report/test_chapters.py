"""The tables of a thorough evaluation: what they show of the figures, and how the page brings back any recipe."""

import shlex

import pytest
import torch

from torchebm.report import write_report
from torchebm.report.chapters import chapters
from torchebm.report.reproduction import commands
from torchebm.training import RECIPES

NAN = float("nan")
FIGURES = {
    "two_sample_tests": {"mmd": {"value": 0.01234, "p_value": 0.002}},
    "classification": {"accuracy": 0.987, "conditional_accuracy": 0.912, "accuracy_of_the_other_classifier": 0.99,
                       "n_conditional": 500},
    "out_of_distribution": {"auroc": {"energy": {"inverted": 0.875}}, "standard_error": {"energy": {"inverted": 0.01}}},
    "long_run": {"verdict": "stationary", "reasons": ["it stays", "where it is"], "steps": [400, 40000],
                 "energy": [1.5, 1.75], "energies_within": [0.97, 0.96], "energy_distance": [0.1, 0.11],
                 "sliced_wasserstein": [0.2, 0.21], "data_energy": 1.25, "floor": 0.09,
                 "stein": {"value": 0.004, "p_value": 0.3}},
    "divergence": {"kl": 0.0123, "standard_error": 0.0004, "log_z": 1.5, "entropy": 2.25},
    "log_likelihood": {"mean": -150.125, "interval": [-151.0, -149.0], "gaussian": -163.5,
                       "log_z": {"estimate": 143.5, "interval": [143.0, 144.0], "notes": ["a note"],
                                 "lower": {"estimate": 143.25, "interval": [143.0, 143.5]}, "upper": None},
                       "dequantised": {"bits_per_dim": 2.5, "bits_per_dim_interval": [2.25, 2.75], "gaussian": 3.5}},
}  # fmt: skip


def rows(name, figures=FIGURES):
    (chapter,) = chapters({name: figures[name]})
    return chapter, {row[0]: row[1:] for row in chapter.rows}


def test_likelihood():
    chapter, found = rows("log_likelihood")
    assert found["nats a point, of data with the model's noise"] == ["-150.125", "-151.000 to -149.000"]
    assert found["the same of a Gaussian with the data's covariance"][0] == "-163.500"
    assert found["bits per dimension, dequantised"] == ["2.500", "2.250 to 2.750"]
    assert found["log Z, annealed forward: a lower bound"] == ["143.250", "143.000 to 143.500"]
    assert not any("upper bound" in name for name in found)
    assert chapter.caption.endswith("A note.")


def test_the_mixture_stands_beside_the_likelihood_it_belongs_to():
    mixture = {"log_likelihood": -140.5, "n_components": 8, "floor": 0.1}
    figures = FIGURES["log_likelihood"] | {"mixture": mixture}
    figures["dequantised"] = figures["dequantised"] | {"mixture": mixture | {"bits_per_dim": 2.7}}
    (chapter,) = chapters({"log_likelihood": figures})
    names = [row[0] for row in chapter.rows]
    nats, bits = (i for i, name in enumerate(names) if name == "the same of the best Gaussian mixture, of size 8")
    assert (chapter.rows[nats][1], chapter.rows[bits][1]) == ("-140.500", "2.700")
    assert nats < names.index("bits per dimension, dequantised") < bits


def test_long_run():
    chapter, found = rows("long_run")
    assert "Verdict: stationary; it stays; where it is." in chapter.caption
    assert "p = 0.300" in chapter.caption
    assert found["40,000"] == ["1.75", "96%", "0.11", "0.21"]
    assert found["data"][0] == "1.25"


def test_the_others():
    assert rows("two_sample_tests")[1]["maximum mean discrepancy"] == ["0.01234", "0.002"]
    assert list(rows("classification")[1].values()) == [["98.7%"], ["91.2%"], ["99.0%"]]
    assert rows("out_of_distribution")[1]["energy"] == ["0.875 ± 0.010"]
    assert rows("divergence")[1]["KL(truth, model)"] == ["0.0123 ± 0.0004"]


def test_what_does_not_exist_has_its_reason():
    _, found = rows("log_likelihood", {"log_likelihood": {"refused": "no normaliser"}})
    assert found == {"none": ["no normaliser"]}


def test_nothing_is_shown_of_what_was_not_computed():
    assert list(chapters({"sw2_ratio": 1.0})) == []


def test_missing_numbers_are_dashes():
    bits = {"bits_per_dim": NAN, "bits_per_dim_interval": [], "gaussian": None}
    likelihood = {**FIGURES["log_likelihood"], "dequantised": bits}
    _, found = rows("log_likelihood", {"log_likelihood": likelihood})
    assert found["bits per dimension, dequantised"] == ["–", "–"]


def test_the_page_has_the_tables(digits, page, tmp_path):
    run, samples = digits
    good = {"n_samples": 100, "sw2_ratio": 1.0, "nearest_ratio": 1.0, "c2st": 0.5, "gaussian": {}}
    report = page(write_report(run, samples, {**good, **FIGURES}, tmp_path / "page.html"))
    assert report.row("energy")[1] == "0.875 ± 0.010"
    assert report.row("nats a point")[1] == "-150.125"
    assert "Verdict: stationary" in report.text


@pytest.mark.parametrize("name", ["short-run", "mnist"])
def test_the_command_brings_the_settings_of_any_recipe_back(name, train, page):
    """Read off the data or not: a run's command names its recipe, and all that differs from it."""
    tyro = pytest.importorskip("tyro")
    from dataclasses import replace

    from torchebm.cli.commands import Train
    from torchebm.training import train_run

    settings = RECIPES[name]
    settings = replace(
        settings,
        model=replace(settings.model, network="dense", widths=(4,)),
        loss=replace(settings.loss, k_steps=1, buffer_size=20),
        sampler=replace(settings.sampler, n_steps=1),
        training=replace(settings.training, n_steps=1, batch_size=8),
    )
    folder = train("rings")[0].folder.parent / name
    run = train_run("digits" if name == "mnist" else "rings", folder, settings, progress=False)
    words = shlex.split(commands(run, 10).splitlines()[0])
    read = tyro.cli(Train, args=words[2:], default=Train.with_recipe_of(words[1:]))
    assert read.recipe == name
    shown = page(write_report(run, run.sample(20, generator=torch.Generator().manual_seed(0)))).text
    assert "It is a short-run generator" in shown
    assert "The model is a density" not in shown
    assert replace(read.settings, training=replace(read.settings.training, n_steps=read.n_steps)) == run.recipe
