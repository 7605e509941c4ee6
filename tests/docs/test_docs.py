"""The README and the pages of docs/: every Python block runs, every command parses, every link leads somewhere."""

import ast
import contextlib
import dataclasses
import io
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch

from torchebm.training import Trainer, recipe, train_run

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *ROOT.glob("docs/*.md")])
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(page, language):
    """The blocks of a page in one language, each preceded by blank lines so that tracebacks tell the page's lines."""
    text = page.read_text()
    return ["\n" * text[: m.start(2)].count("\n") + m[2] for m in FENCE.finditer(text) if m[1] == language]


def promised(source):
    """What the page says that its prints show: the comment behind each `print(...)` that has one."""
    lines = source.splitlines()
    calls = [node.value for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Expr)]
    prints = [c for c in calls if isinstance(c, ast.Call) and getattr(c.func, "id", None) == "print"]
    prints.sort(key=lambda call: call.lineno)
    return [lines[c.end_lineno - 1][c.end_col_offset :].partition("#")[2].strip() for c in prints]


def with_language(language):
    pages = [page for page in PAGES if blocks(page, language)]
    return pytest.mark.parametrize("page", pages, ids=lambda page: page.name)


@pytest.fixture(scope="session")
def small_run(tmp_path_factory):
    """A run of the digits that is too short to be good, for pages that load one."""
    pytest.importorskip("sklearn")
    full = recipe("digits")
    short = dataclasses.replace(
        full,
        sampler=dataclasses.replace(full.sampler, n_leapfrog_steps=1, n_steps=5),
        loss=dataclasses.replace(full.loss, k_steps=1),
        training=dataclasses.replace(full.training, n_steps=50),
    )
    return train_run("digits", tmp_path_factory.mktemp("run") / "digits", short, progress=False).folder


@with_language("python")
def test_python(page, tmp_path, monkeypatch, request):
    """All blocks of a page in order, in one namespace and an empty directory, with the default generator seeded."""
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.distributions.Distribution, "_validate_args", True)  # torch.compile turns it off for good
    if "torchebm.diagnostics" in "".join(blocks(page, "python")):
        pytest.importorskip("arviz")
    if "runs/digits" in "".join(blocks(page, "python")):
        shutil.copytree(request.getfixturevalue("small_run"), tmp_path / "runs" / "digits")
    fit = Trainer.fit  # the README's training takes a minute, and here a few steps of it
    if page.name == "README.md":
        few = lambda self, data, n_steps: fit(self, data, min(n_steps, 20), progress=False)  # noqa: E731
        monkeypatch.setattr(Trainer, "fit", few)
    namespace = {"__name__": "__docs__"}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for source in blocks(page, "python"):
            shown = io.StringIO()
            with contextlib.redirect_stdout(shown):
                exec(compile(source, str(page), "exec"), namespace)
            if said := promised(source):
                assert shown.getvalue().splitlines() == said, f"{page.name} promises another output"
    if "matplotlib.pyplot" in vars(matplotlib):
        matplotlib.pyplot.close("all")


@with_language("sh")
def test_commands(page, tmp_path):
    """Targets of make exist, extras of pip exist, and `torchebm` understands its arguments."""
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for line in "\n".join(blocks(page, "sh")).replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if not words:
            continue
        if words[0] == "make":
            named = {word for word in words[1:] if "=" not in word}
            assert named <= targets, f"{line}: the Makefile has {sorted(targets)}"
        elif words[0] == "torchebm":
            check_arguments(words[1:])
        else:
            assert words[:2] == ["pip", "install"] or words[0] in {"git", "cd"}, line
            named = {e for word in words for group in re.findall(r"\[(.*)\]", word) for e in group.split(",")}
            assert named <= set(extras), line


def check_arguments(arguments):
    """Whether the command line can be parsed; nothing is run."""
    tyro = pytest.importorskip("tyro")
    commands = pytest.importorskip("torchebm.cli.commands")
    name, *rest = arguments
    command = {c.__name__.lower(): c for c in vars(commands).values() if dataclasses.is_dataclass(c)}[name]
    if name == "train":
        assert {"--data", "--out"} <= {word.partition("=")[0] for word in rest}
        tyro.cli(command, default=command.with_recipe_of(rest), args=rest)
    else:
        tyro.cli(command, args=rest)


def test_links_lead_somewhere():
    wrong = []
    for page in PAGES:
        text = FENCE.sub("", page.read_text())
        for target in re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'src="([^"]+)"', text):
            path, _, anchor = target.partition("#")
            file = (page.parent / path).resolve() if path else page
            if target.startswith("https://"):
                continue
            if not file.exists():
                wrong.append(f"{page.name}: {target}")
            elif anchor and file.suffix == ".md" and anchor not in anchors(file):
                wrong.append(f"{page.name}: {target}; the headings are {sorted(anchors(file))}")
    assert not wrong, "\n".join(wrong)


def anchors(page):
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_page_is_in_the_index():
    index = (ROOT / "docs" / "index.md").read_text()
    pages = {page.name for page in ROOT.glob("docs/*.md")} - {"index.md"}
    assert pages <= set(re.findall(r"\]\((.+?)\)", index))


def test_pictures_are_small():
    for picture in (ROOT / "docs" / "images").iterdir():
        assert picture.stat().st_size < 300_000, picture.name


def test_the_script_that_makes_the_pictures_runs(tmp_path, small_run):
    pytest.importorskip("matplotlib")
    environment = {**os.environ, "MPLBACKEND": "Agg"}
    command = [sys.executable, str(ROOT / "docs" / "make_pictures.py"), "--quick", "--out", str(tmp_path)]
    command += ["--run", str(small_run)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["digits.png", "landscape.png"]
