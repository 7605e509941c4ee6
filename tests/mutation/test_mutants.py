"""The table of mutants fits the package as it is, so that `make mutation` can be run at any time."""

import ast
import runpy
from pathlib import Path

import pytest

import torchebm
import torchebm.samplers
from torchebm.core import BaseSampler

PACKAGE, TESTS = Path(torchebm.__file__).parent, Path(__file__).parents[1]
MUTANTS = runpy.run_path(str(Path(__file__).with_name("mutants.py")))["MUTANTS"]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: f"{m.sampler}, {m.what}")
def test_what_a_mutant_changes_occurs_exactly_once(mutant):
    text = (PACKAGE / mutant.file).read_text()
    assert text.count(mutant.old) == 1, f"stale: {mutant.old!r} occurs {text.count(mutant.old)} times in {mutant.file}"
    changed = text.replace(mutant.old, mutant.new)
    assert ast.dump(ast.parse(changed)) != ast.dump(ast.parse(text))
    assert mutant.tests
    for selection in mutant.tests:
        assert (TESTS.parent / selection.split()[0]).is_file()


def test_every_exported_sampler_has_mutants():
    exported = [getattr(torchebm.samplers, name) for name in torchebm.samplers.__all__]
    samplers = {c.__name__ for c in exported if isinstance(c, type) and issubclass(c, BaseSampler)}
    assert samplers <= {mutant.sampler for mutant in MUTANTS}


def test_no_mutant_is_in_the_table_twice():
    assert len({(m.file, m.old, m.new) for m in MUTANTS}) == len(MUTANTS)
