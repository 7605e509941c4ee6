"""The house: who may import whom, what an import costs, and what no file may do. New rooms are covered as they come."""

import ast
import builtins
import importlib
import inspect
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import torchebm

ROOT = Path(torchebm.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))

# cli -> report -> evaluation, training -> losses -> samplers -> core <- models; the side rooms know only core
SIDE_ROOMS = {"models", "datasets", "diagnostics", "viz"}
ALLOWED = {
    "core": set(),
    "models": {"core"},
    "datasets": {"core"},
    "diagnostics": {"core"},
    "viz": {"core"},
    "samplers": {"core"},
    "cuda": {"core", "samplers"},
    "losses": {"core", "samplers"},
    "training": {"core", "samplers", "losses"} | SIDE_ROOMS,
    "evaluation": {"core", "samplers", "losses"} | SIDE_ROOMS,
    "report": {"core", "samplers", "losses", "training", "evaluation"} | SIDE_ROOMS,
    "cli": {"core", "samplers", "losses", "training", "evaluation", "report", "cuda"} | SIDE_ROOMS,
}

EVERYWHERE = {"torch", "numpy", "jaxtyping", "safetensors", "filelock"}  # with the standard library
AT_HOME = {  # third parties that one room needs, and where
    "matplotlib": {"viz", "report"},
    "arviz": {"diagnostics"},
    "zarr": {"diagnostics"},
    "tyro": {"cli"},
    "pandas": {"datasets"},
    "pyarrow": {"datasets"},
    "sklearn": {"datasets"},
    "PIL": {"datasets"},
    "scipy": {"evaluation"},
    "triton": {"cuda"},
    "tqdm": set(),
}


def room_of(path):
    parts = path.relative_to(ROOT).parts
    return parts[0] if len(parts) > 1 else ""


def name_of(path):
    return str(path.relative_to(ROOT))


def imported(path, *, at_module_level=False):
    """The absolute names that a file imports, with lines; `from a import b` yields both a and a.b."""
    package = ["torchebm", *path.relative_to(ROOT).parts[:-1]]
    for node in walk(ast.parse(path.read_text()), at_module_level):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*base, *([node.module] if node.module else [])])
            yield base, node.lineno
            yield from ((f"{base}.{alias.name}", node.lineno) for alias in node.names)


def walk(tree, at_module_level):
    """All nodes, or only those that run when the module is imported."""
    if not at_module_level:
        yield from ast.walk(tree)
        return
    waiting = list(tree.body)
    while waiting:
        node = waiting.pop()
        yield node
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            waiting += node.orelse
            continue
        waiting += ast.iter_child_nodes(node)


def rooms_imported(path):
    rooms = {child.name for child in ROOT.iterdir() if child.is_dir()}
    for name, line in imported(path):
        parts = name.split(".")
        if parts[0] == "torchebm" and len(parts) > 1 and parts[1] in rooms:
            yield parts[1], line


def complaint(path, line, what):
    return f"{name_of(path)}:{line} {what}"


def test_every_room_has_its_place():
    rooms = {path.name for path in ROOT.iterdir() if path.is_dir() and any(path.rglob("*.py"))}
    assert rooms <= set(ALLOWED), f"no rule says what {rooms - set(ALLOWED)} may import: add one to ALLOWED"
    assert {"core", "samplers", "losses", "models", "datasets", "viz", "cuda"} <= rooms


def test_the_rules_have_no_circle():
    for room, others in ALLOWED.items():
        assert not any(room in ALLOWED[other] for other in others), room


def test_imports_point_inward():
    wrong = {
        complaint(path, line, f"imports {room}")
        for path in FILES
        if room_of(path)
        for room, line in rooms_imported(path)
        if room != room_of(path) and room not in ALLOWED[room_of(path)]
    }
    assert not wrong, "\n".join(sorted(wrong))


def test_the_imports_are_seen():
    """The reader above reads: a few imports that are known to be there."""
    seen = {name for name, _ in imported(ROOT / "losses" / "contrastive_divergence.py")}
    assert {"torchebm.core.loss", "torchebm.losses.replay_buffer", "torch"} <= seen
    assert "core" in {room for room, _ in rooms_imported(ROOT / "samplers" / "langevin.py")}
    recording = ROOT / "core" / "recording.py"
    assert "zarr" in {name for name, _ in imported(recording)}
    assert "zarr" not in {name for name, _ in imported(recording, at_module_level=True)}


def test_third_parties_stay_in_their_rooms():
    known = EVERYWHERE | {"torchebm"} | set(sys.stdlib_module_names)
    wrong = []
    for path in FILES:
        for name, line in imported(path, at_module_level=True):
            package = name.split(".")[0]
            if package in known:
                continue
            if room_of(path) not in AT_HOME.get(package, set()):
                wrong.append(complaint(path, line, f"imports {package} when it is imported"))
    assert not wrong, "\n".join(sorted(set(wrong)))


def test_third_parties_inside_functions_are_known():
    known = EVERYWHERE | set(AT_HOME) | {"torchebm"} | set(sys.stdlib_module_names)
    wrong = {
        complaint(path, line, f"imports {name}")
        for path in FILES
        for name, line in imported(path)
        if name.split(".")[0] not in known
    }
    assert not wrong, "\n".join(sorted(wrong))


PROBE = """
import sys, time
import torch
before = set(sys.modules)
state, threads, precision = torch.get_rng_state(), torch.get_num_threads(), torch.get_float32_matmul_precision()
dtype, grad = torch.get_default_dtype(), torch.is_grad_enabled()
began = time.perf_counter()
import torchebm
seconds = time.perf_counter() - began
{more}
after = {{name.split(".")[0] for name in set(sys.modules) - before}}
assert torch.equal(state, torch.get_rng_state()), "the import drew random numbers"
assert (threads, precision) == (torch.get_num_threads(), torch.get_float32_matmul_precision()), "torch was changed"
assert (dtype, grad) == (torch.get_default_dtype(), torch.is_grad_enabled()), "torch was changed"
print(seconds, *sorted(after))
"""
ROOMS_TO_USE = ["core", "samplers", "losses", "models", "training"]


def probe(more=""):
    code = PROBE.format(more=more)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT.parent)
    assert done.returncode == 0, done.stderr
    seconds, *modules = done.stdout.split()
    return float(seconds), set(modules)


def test_importing_the_package_is_light():
    """No third party but torch's own, and under 0.2 s on top of torch, at best of three: a busy machine only adds."""
    results = []
    for _ in range(3):
        results.append(probe())
        if results[-1][0] < 0.2:
            break
    assert min(seconds for seconds, _ in results) < 0.2
    assert not results[0][1] & set(AT_HOME)


def test_the_rooms_for_training_and_sampling_are_light_too():
    rooms = [room for room in ROOMS_TO_USE if (ROOT / room).is_dir()]
    _, modules = probe("\n".join(f"import torchebm.{room}" for room in rooms))
    assert not modules & set(AT_HOME)


# what no file may do -------------------------------------------------------------------------------------------------

FORBIDDEN = {
    "torch.manual_seed": "seeds a stream that is not its own",
    "torch.seed": "seeds a stream that is not its own",
    "torch.random.manual_seed": "seeds a stream that is not its own",
    "torch.cuda.manual_seed": "seeds a stream that is not its own",
    "torch.cuda.manual_seed_all": "seeds a stream that is not its own",
    "numpy.random.seed": "seeds a stream that is not its own",
    "random.seed": "seeds a stream that is not its own",
    "torch.load": "unpickles",
    "torch.save": "pickles",
    "torch.set_default_dtype": "changes torch for everybody",
    "torch.set_float32_matmul_precision": "changes torch for everybody",
    "torch.use_deterministic_algorithms": "changes torch for everybody",
    "torch.autograd.set_detect_anomaly": "changes torch for everybody",
}
PICKLERS = {"pickle", "cPickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}


def dotted(node):
    parts = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return ".".join([node.id, *reversed(parts)]) if isinstance(node, ast.Name) else None


def names_used(path):
    """Dotted names that a file uses, with aliases resolved to what was imported."""
    tree = ast.parse(path.read_text())
    aliases = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            aliases |= {alias.asname: alias.name for alias in node.names if alias.asname}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            aliases |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    for node in ast.walk(tree):
        if isinstance(node, (ast.Attribute, ast.Name)) and (name := dotted(node)) is not None:
            head, *rest = name.split(".")
            yield ".".join([aliases.get(head, head), *rest]), node.lineno
        if isinstance(node, ast.keyword) and node.arg == "allow_pickle" and getattr(node.value, "value", True):
            yield "pickle", node.value.lineno


def test_nothing_is_seeded_unpickled_or_set_for_everybody():
    wrong = [
        complaint(path, line, FORBIDDEN[name]) for path in FILES for name, line in names_used(path) if name in FORBIDDEN
    ]
    wrong += [complaint(path, line, "unpickles") for path in FILES for name, line in names_used(path)
              if name.split(".")[0] in PICKLERS]  # fmt: skip
    wrong += [complaint(path, line, "unpickles") for path in FILES for name, line in imported(path) if name in PICKLERS]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("code", "name"),
    [
        ("import torch\ntorch.manual_seed(0)", "torch.manual_seed"),
        ("import torch as t\nt.load('x')", "torch.load"),
        ("from torch import manual_seed as s\ns(0)", "torch.manual_seed"),
        ("import numpy as np\nnp.random.seed(0)", "numpy.random.seed"),
        ("import numpy as np\nnp.load('x', allow_pickle=True)", "pickle"),
    ],
)
def test_the_names_are_seen(tmp_path, code, name):
    (tmp_path / "sample.py").write_text(code)
    assert name in {used for used, _ in names_used(tmp_path / "sample.py")}


def test_only_the_one_place_draws():
    """Drawing functions of torch are called in core/random.py alone, so that every draw takes a generator."""
    drawing = "rand randn randint randperm rand_like randn_like randint_like normal bernoulli multinomial poisson"
    drawing = {f"torch.{name}" for name in drawing.split()}
    wrong = [
        complaint(path, line, f"draws by {name}")
        for path in FILES
        if name_of(path) != "core/random.py"
        for name, line in names_used(path)
        if name in drawing or name.startswith("numpy.random.")
    ]
    assert not wrong, "\n".join(wrong)


# names and docstrings ------------------------------------------------------------------------------------------------


def module_names():
    names = ["torchebm"]
    names += [m.name for m in pkgutil.walk_packages([str(ROOT)], "torchebm.", onerror=lambda name: None)]
    return [name for name in names if not name.endswith("__main__")]


def load(name):
    try:
        return importlib.import_module(name)
    except ImportError as error:
        if (error.name or "").split(".")[0] in AT_HOME:
            pytest.skip(f"{error.name} is not installed")
        raise


def isort_key(name):
    """SCREAMING names first, then Classes, then functions: the order that the linter keeps."""
    kind = 0 if name.isupper() and len(name) > 1 else 1 if name[:1].isupper() else 2
    return kind, name


@pytest.mark.parametrize("name", module_names())
def test_public_names_exist_sorted_and_once(name):
    module = load(name)
    assert (module.__doc__ or "").strip(), "a module begins with a line that says what it is"
    public = getattr(module, "__all__", None)
    if public is None:
        return
    assert len(set(public)) == len(public), "a name is exported twice"
    assert [n for n in public if not hasattr(module, n)] == []
    assert list(public) == sorted(public, key=isort_key)
    assert not any(hasattr(builtins, n) for n in public), "a builtin is shadowed"


@pytest.mark.parametrize("name", module_names())
def test_what_is_exported_has_a_docstring_of_its_own(name):
    module = load(name)
    missing = []
    for public in getattr(module, "__all__", ()):
        thing = getattr(module, public)
        # no class inherits its own
        documented = vars(thing).get("__doc__") if inspect.isclass(thing) else thing.__doc__
        if (inspect.isclass(thing) or inspect.isfunction(thing)) and not (documented or "").strip():
            missing.append(public)
    assert missing == []


def test_every_folder_is_a_package_and_says_what_it_exports():
    folders = {path.parent for path in FILES}
    assert [name_of(f) for f in folders if not (f / "__init__.py").exists()] == []
    silent = [
        f.name
        for f in folders - {ROOT}
        if not hasattr(load(f"torchebm.{'.'.join(f.relative_to(ROOT).parts)}"), "__all__")
    ]
    assert silent == []
