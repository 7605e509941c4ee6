"""The page of a run: complete, self-contained, accessible, and safe whatever the data are called."""

import re
import shlex
import struct
from dataclasses import replace

import pytest
import torch

from torchebm.evaluation import compare
from torchebm.report import write_report
from torchebm.report.markup import Markup, escape, tag
from torchebm.report.reproduction import commands

GOOD = {
    "n_samples": 100,
    "class_shares": [0.1] * 10,
    "sw2_ratio": 1.0123,
    "nearest_ratio": 0.9876,
    "c2st": 0.5345,
    "gaussian": {"class_shares": [0.1] * 10, "sw2_ratio": 1.3579, "nearest_ratio": 1.2468, "c2st": 0.8642},
}


def figures(**changes):
    return {**GOOD, **changes}


@pytest.fixture(scope="module")
def digits_page(digits, page, tmp_path_factory):
    return page(write_report(*digits, GOOD, tmp_path_factory.mktemp("pages") / "digits.html"))


@pytest.fixture(scope="module")
def wine(train, page, tmp_path_factory):
    """The page of a real table, with figures that were computed for it."""
    from sklearn.datasets import load_wine

    path = tmp_path_factory.mktemp("data") / "wine.csv"
    load_wine(as_frame=True).data.to_csv(path, index=False)
    run, samples = train(path)
    data, held_out = (part.x for part in run.data())
    judged = compare(samples, data, held_out, generator=torch.Generator().manual_seed(0))
    return run, judged, page(write_report(run, samples, judged))


def test_the_page_lies_in_the_run_unless_told_otherwise(digits, tmp_path):
    run, samples = digits
    assert write_report(run, samples) == run.folder / "report.html"
    assert write_report(run, samples, None, tmp_path / "there.html") == tmp_path / "there.html"
    assert [path.name for path in tmp_path.iterdir()] == ["there.html"]


def test_nothing_is_fetched(digits_page, wine):
    for page in (digits_page, wine[2]):
        assert "http" not in page.source.replace("http-equiv", "")
        assert not {name for name, _ in page.elements} & {"script", "link", "iframe", "object", "embed"}
        assert all(not key.startswith("on") for _, attributes in page.elements for key in attributes)
        assert "url(" not in page.source
        assert "@import" not in page.source
        (policy,) = [meta["content"] for meta in page.all("meta") if "http-equiv" in meta]
        assert policy.startswith("default-src 'none'")


def test_pictures_are_drawn_and_described(digits_page):
    for image, content in zip(digits_page.all("img"), digits_page.pictures(), strict=True):
        assert content.startswith(b"\x89PNG")
        assert struct.unpack(">II", content[16:24]) == (int(image["width"]), int(image["height"]))
        assert len(image["alt"]) > 10
    alts = [image["alt"] for image in digits_page.all("img")]
    assert sum(alt.startswith("Grid of 64 images") for alt in alts) == 2
    assert sum("energies of data, samples and noise" in alt for alt in alts) == 1
    assert sum("against the training step" in alt for alt in alts) >= 5


def test_sections_come_in_reading_order(digits_page):
    order = ["How good the samples are", "Samples and data", "Energies", "Training", "Settings", "Data and machine",
             "How to make it again"]  # fmt: skip
    assert re.findall(r"<h2>(.*?)</h2>", digits_page.source) == order
    assert len(digits_page.all("h1")) == 1
    assert digits_page.all("html") == [{"lang": "en"}]


def test_tables_have_headers_and_captions(digits_page):
    assert len(digits_page.all("caption")) == len(digits_page.tables) >= 8
    assert {cell["scope"] for cell in digits_page.all("th")} == {"row", "col"}
    assert all(len({len(row) for row in table}) == 1 for table in digits_page.tables)


def test_figures_stand_beside_those_of_the_gaussian(digits_page):
    for start, ours, theirs in (
        ("Distance to held-out data", "1.012", "1.358"),
        ("Distance to the nearest training point", "0.988", "1.247"),
        ("Two-sample test", "0.534", "0.864"),
    ):
        assert digits_page.row(start)[1:3] == [ours, theirs]
    assert digits_page.source.count("<strong>1.012</strong>") == 1
    assert digits_page.row("7")[1] == "10.0%"


def test_facts_and_settings_are_told(digits, digits_page):
    run, _ = digits
    assert "learned from 1,258 images of digits in 60 updates" in digits_page.text
    assert digits_page.row("Rows")[1] == "1,258 trained on, 539 held out"
    assert digits_page.row("hidden") == ["hiddenWidths of the network's layers.", "16"]
    assert digits_page.row("data_noise")[1] == "0.37"
    assert digits_page.row("Versions")[1] == f"torchebm 0.1.0, PyTorch {torch.__version__}"
    assert f"{float(run.data_noise.max()):.4g}" in digits_page.row("Added noise")[1]


def test_energies_compare_like_with_like(digits, digits_page, page):
    run, samples = digits
    assert "so do the samples, which were freed of it" in digits_page.text
    low, median, high = (float(mark) for mark in digits_page.row("held-out data")[2:])
    assert low < median < high
    noise = run.model(run.noise(1000, torch.Generator().manual_seed(0))).median()
    assert float(digits_page.row("uniform noise")[3]) == pytest.approx(float(noise), rel=0.1)
    noisy = replace(run, recipe=replace(run.recipe, sampler=replace(run.recipe.sampler, denoise=False)))
    x = samples + run.data_noise
    report = page(write_report(noisy, x, None, run.folder / "noisy.html"))
    assert "the samples have it already" in report.text
    energy = run.model(x).double()  # of the very points that were handed in
    assert [float(mark) for mark in report.row("samples")[2:]] == pytest.approx(
        energy.quantile(energy.new_tensor([0.05, 0.5, 0.95])).tolist(), rel=1e-3
    )


def test_tables_show_marginals_and_moments(wine):
    run, judged, page = wine
    captions = [name for name in run.config["data"]["columns"] if f"<strong>{name}</strong>" in page.source]
    assert len(captions) == 13
    assert sum(image["alt"].startswith("Histograms of ") for image in page.all("img")) == 14
    assert page.row("proline")[1] == "747"
    assert page.row("Distance to held-out")[1] == f"{judged['sw2_ratio']:.3f}"
    assert f"--data {shlex.quote(run.config['data']['source'])}" in page.text


@pytest.mark.parametrize(("d", "alt"), [(1, "Curve of the learned energy"), (2, "Map of the learned energy")])
def test_one_and_two_columns_have_their_energy_drawn(train, page, tmp_path, d, alt):
    path = tmp_path / "few.csv"
    x = torch.randn(200, d, generator=torch.Generator().manual_seed(0))
    path.write_text("\n".join([",".join("ab"[:d]), *(",".join(f"{v:.4f}" for v in row) for row in x.tolist())]))
    run, samples = train(path)
    report = page(write_report(run, samples))
    assert any(image["alt"].startswith(alt) for image in report.all("img"))
    assert "They have not been judged" in report.text


def test_a_density_by_name(train, page):
    run, samples = train("rings")
    report = page(write_report(run, samples, figures(class_shares=None, n_samples=100)))
    assert "7,000 rows of rings" in report.text
    assert "torchebm train --data rings" in report.text


def test_hostile_names_are_text(train, page, tmp_path):
    folder = tmp_path / '<img src=x onerror=alert(1)> & "co" $title'
    folder.mkdir()
    path = folder / "<script>alert('$body')<!--.csv"
    hostile = ["<b>bold</b>", "</table><script>alert(1)</script>", "$\\frac{$", 'q"uote', "日本"]
    rows = torch.randn(60, 5, generator=torch.Generator().manual_seed(0)).tolist()
    quoted = ",".join('"' + name.replace('"', '""') + '"' for name in hostile)
    path.write_text("\n".join([quoted, *(",".join(f"{v:.3f}" for v in row) for row in rows)]), encoding="utf-8")
    run, samples = train(path)
    report = page(write_report(run, samples))
    assert not {name for name, _ in report.elements} & {"script", "b"}
    assert all(name in report.text for name in hostile)
    assert path.name in report.text
    assert shlex.split(commands(run, 100).splitlines()[0])[3] == str(path)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"class_shares": [0.13, 0.02, *[0.85 / 8] * 8]}, "Too few samples (below 0.05 of all) fall into 1 (2.0%"),
        ({"sw2_ratio": 1.31}, "1.31 times as far from held-out data"),
        ({"nearest_ratio": 0.79}, "may have memorised"),
        ({"c2st": 0.9}, "A Gaussian with the data's mean and covariance does better in the two-sample test"),
        ({"sw2_ratio": float("nan")}, "No finite value came out for the distance to held-out data"),
    ],
)
def test_what_looks_off_is_said(digits, page, changes, sentence):
    run, samples = digits
    report = page(write_report(run, samples, figures(**changes), run.folder / "off.html"))
    assert sentence in report.text
    assert [item for item in report.all("div") if item.get("class") == "alert"]


def test_nothing_is_said_when_nothing_looks_off(digits_page):
    assert "Look twice" not in digits_page.text


def test_a_run_that_was_stopped_says_so(digits, page):
    run, samples = digits
    settings = replace(run.recipe, training=replace(run.recipe.training, n_steps=9000))
    samples = samples.clone()
    samples[:3] = torch.nan
    report = page(write_report(replace(run, recipe=settings), samples, None, run.folder / "early.html"))
    assert "Training stopped at update 60 of 9,000" in report.text
    assert "3 of 100 samples are not finite" in report.text


def test_a_run_too_short_to_be_recorded(digits, page):
    run, samples = digits
    log = run.folder / "metrics.jsonl"
    kept = log.read_text()
    log.write_text("")
    try:
        report = page(write_report(run, samples, None, run.folder / "short.html"))
    finally:
        log.write_text(kept)
    assert "Nothing was recorded in 60 updates." in report.text


def test_the_same_run_gives_the_same_page_and_leaves_the_global_stream_alone(digits):
    run, samples = digits
    before = torch.get_rng_state()
    pages = [write_report(run, samples, GOOD, run.folder / f"{k}.html").read_bytes() for k in range(2)]
    assert pages[0] == pages[1]
    assert torch.equal(before, torch.get_rng_state())


def test_samples_of_another_shape_are_refused(digits):
    run, samples = digits
    with pytest.raises(ValueError, match=r"samples has shape \[100, 64\]; expected \[n, 1, 8, 8\] with n > 0"):
        write_report(run, samples.flatten(1))
    with pytest.raises(ValueError, match="with n > 0"):
        write_report(run, samples[:0])


def test_the_command_brings_the_settings_back(digits):
    """The command line reads the command on the page into the very recipe of the run."""
    pytest.importorskip("tyro")
    import tyro

    from torchebm.cli import commands as command_line

    run, _ = digits
    words = shlex.split(commands(run, 100).splitlines()[0])
    assert words[:2] == ["torchebm", "train"]
    default = command_line.Train.with_recipe_of(words[1:])
    read = tyro.cli(command_line.Train, args=words[2:], default=default)
    settings = replace(read.settings, training=replace(read.settings.training, n_steps=read.n_steps))
    assert settings == run.recipe
    assert (read.data, str(read.out), read.seed, read.device) == ("digits", f"{run.folder}-again", 0, "cpu")


def test_markup_escapes_everything_else():
    assert tag("p", "<i>", Markup("<i></i>"), title='"') == '<p title="&quot;">&lt;i&gt;<i></i></p>'
    assert escape(3) == "3"
