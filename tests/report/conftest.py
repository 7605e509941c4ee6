import base64
from dataclasses import replace
from html.parser import HTMLParser

import pytest
import torch

from torchebm.training import recipe, train_run

VOID = {"img", "meta", "br", "hr", "link", "input"}


class Page(HTMLParser):
    """A parsed page: its text, its elements with their attributes, and whether every one of them is closed in order."""

    def __init__(self, path):
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.elements, self.words, self.open, self.tables = [], [], [], []
        self.feed(self.source)
        self.close()
        assert self.open == []
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" in self.open:
            return
        self.words.append(data)
        if {"td", "th"} & set(self.open):
            self.tables[-1][-1][-1] += data

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]

    def pictures(self):
        """The bytes of every picture."""
        head = "data:image/png;base64,"
        assert all(image["src"].startswith(head) for image in self.all("img"))
        return [base64.b64decode(image["src"].removeprefix(head)) for image in self.all("img")]

    def row(self, start):
        """The first row of a table that begins with these words."""
        return next(row for table in self.tables for row in table if row and row[0].startswith(start))


@pytest.fixture(scope="module")
def page():
    """`page(path)` reads a page."""
    return Page


@pytest.fixture(scope="module")
def tiny():
    """`tiny(name, **loss)`: a recipe that is through in a second, and has learned nothing by then."""

    def make(name, **loss):
        settings = recipe(name)
        return replace(
            settings,
            model=replace(settings.model, hidden=(16,)),
            sampler=replace(settings.sampler, n_leapfrog_steps=2, n_steps=10),
            loss=replace(settings.loss, k_steps=1, buffer_size=64, **loss),
            training=replace(settings.training, n_steps=60, batch_size=32, warmup_steps=10, checkpoint_every=60),
        )

    return make


@pytest.fixture(scope="module")
def train(tmp_path_factory, tiny):
    """`train(source, name)`: a run and a few samples of it."""

    def make(source, name="tabular", **loss):
        run = train_run(str(source), tmp_path_factory.mktemp("runs") / "run", tiny(name, **loss), progress=False)
        return run, run.sample(100, generator=torch.Generator().manual_seed(0))

    return make


@pytest.fixture(scope="module")
def digits(train):
    return train("digits", "images")
