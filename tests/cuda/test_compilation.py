"""The kernels compile for a graphics card, which takes none."""

import pytest

from torchebm.cuda import kernels
from torchebm.cuda.elementwise import _KNOWN

triton = pytest.importorskip("triton")

SLOPES = sorted(known.slope for known in _KNOWN.values())
POINTERS = {"keys": "*i64", "held": "*i8"}
NUMBERS = dict.fromkeys(("n", "n_event", "n_steps", "thin"), "i32")


def compiled(kernel, real, constants):
    """Machine code for an H100 or H200, from a signature alone."""
    names = kernel.arg_names
    signature = {name: "constexpr" if name in constants else NUMBERS.get(name, POINTERS.get(name, f"*{real}"))
                 for name in names}  # fmt: skip
    source = triton.compiler.ASTSource(
        kernel, signature=signature, constexprs={(names.index(name),): value for name, value in constants.items()}
    )
    target = triton.backends.compiler.GPUTarget("cuda", 90, 32)
    return triton.compile(source, target=target, options={"enable_fp_fusion": False}).asm


@pytest.fixture(autouse=True)
def _fresh(monkeypatch, tmp_path):
    if kernels.interpreted():
        pytest.skip("the kernels were loaded for the interpreter")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))


@pytest.mark.parametrize("real", ["fp32", "fp64"])
@pytest.mark.parametrize("slope", SLOPES)
def test_steps_compile(real, slope):
    every = real == "fp64"  # one with all the options, one with none
    flags = dict.fromkeys(("CLIP", "BOX", "ROOTS", "HELD", "KEEP"), every)
    code = compiled(kernels.langevin, real, {"SLOPE": getattr(kernels, slope), **flags, "WIDE": every, "BLOCK": 128})
    assert code["cubin"]
    assert "mul.hi.u32" in code["ptx"]


@pytest.mark.parametrize("real", ["fp32", "fp64"])
def test_noise_compiles(real):
    assert compiled(kernels.normals, real, {"WIDE": real == "fp64", "BLOCK": 128})["cubin"]
