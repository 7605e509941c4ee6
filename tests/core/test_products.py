"""Matrix products in compiled functions: whichever way they take, they are the products."""

import math
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx

from torchebm.core import products


@pytest.fixture(params=[True, False], ids=["oneDNN", "as PyTorch does"])
def faster(request, monkeypatch):
    if not torch.backends.mkldnn.is_available():
        pytest.skip("this PyTorch has no oneDNN")
    monkeypatch.setattr(products, "_is_faster", lambda n_rows, share: request.param)
    return request.param


@pytest.mark.parametrize(
    "shape",
    [(70, 1, 3), (70, 4, 40), (70, 5, 40), (70, 40, 33), (3, 64, 64), (70, 40, 2), (70, 40, 1), (1, 40, 50), (1, 2, 3)],
    ids=str,
)
def test_products_with_and_without_a_bias(shape, faster, generator, through_inductor):
    m, k, n = shape
    a, b, c = (torch.randn(*s, generator=generator) for s in ((m, k), (k, n), (n,)))

    def both(a, b, c):
        return a @ b + 1, torch.addmm(c, a, b) * 2, b.T @ a.T, a @ (b.T.contiguous() * 2).T

    for got, expected in zip(through_inductor(both)(a, b, c), both(a, b, c), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", [(40, 0, 3), (40, 3, 0), (0, 3, 2)], ids=str)
def test_products_of_nothing(shape, through_inductor):
    m, k, n = shape
    a, b = torch.ones(m, k), torch.ones(k, n)
    torch.testing.assert_close(through_inductor(torch.mm)(a, b), a @ b)


def test_whole_numbers_stay_what_they_are(through_inductor):
    a = torch.arange(80, dtype=torch.int32).reshape(40, 2)
    torch.testing.assert_close(through_inductor(torch.mm)(a, a[:2]), a @ a[:2])


def test_a_network_and_its_gradient(faster, generator, through_inductor):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(3, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, 1))
    network.requires_grad_(False)
    x = torch.randn(65, 3, generator=generator)

    def gradient(x):
        return torch.func.grad(lambda y: network(y).sum())(x)

    torch.testing.assert_close(through_inductor(gradient)(x), gradient(x), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("shape", [(70, 2, 40), (70, 40, 40), (70, 40, 2)], ids=str)
def test_what_forward_and_backward_pass_share_is_a_sum_for_each(shape, faster):
    """Of a few terms, or of a product and its bias: one that both read would be written to memory and read back."""
    m, k, n = shape

    def both(x, w, b):
        y = torch.addmm(b, x, w)
        return y * y.sigmoid(), y.exp()

    graph = make_fx(both, tracing_mode="fake")(torch.ones(m, k), torch.ones(k, n), torch.ones(n)).graph
    products.rewrite_products(graph)
    graph.lint()
    readers = graph.find_nodes(op="call_function", target=torch.ops.aten.sigmoid.default)
    readers += graph.find_nodes(op="call_function", target=torch.ops.aten.exp.default)
    sums = {node.args[0] for node in readers}
    assert len(sums) == len(readers) == 2
    assert all(node.target == torch.ops.aten.add.Tensor for node in sums)
    assert not graph.find_nodes(op="call_function", target=torch.ops.aten.addmm.default)


@pytest.mark.parametrize("k", [2, 40])
def test_silu_of_a_product(k):
    def silu(x, w, b):
        y = torch.addmm(b, x, w)
        return y / (1 + y.neg().exp())

    graph = make_fx(silu, tracing_mode="fake")(torch.ones(70, k), torch.ones(k, 40), torch.ones(40)).graph
    products.rewrite_products(graph)
    graph.lint()
    called = [node.target for node in graph.nodes if node.op == "call_function"]
    assert called.count(torch.ops.aten.sigmoid.default) == 1
    assert not {torch.ops.aten.div.Tensor, torch.ops.aten.exp.default, torch.ops.aten.neg.default} & set(called)


def test_what_looks_like_silu_but_is_not(generator, through_inductor):
    x, y = (torch.randn(5, 6, generator=generator) for _ in range(2))

    def quotients(x, y):
        return x / ((-x).exp() + 1), y / ((-x).exp() + 1), x / ((-x).exp() + 2), x / (x.exp() + 1), x / (x + 1)

    for got, expected in zip(through_inductor(quotients)(x, y), quotients(x, y), strict=True):
        torch.testing.assert_close(got, expected)


@pytest.fixture
def new_machine(monkeypatch, tmp_path):
    """A machine that has measured nothing, with oneDNN; its folder. Its threads are as many afterwards."""
    n_threads = torch.get_num_threads()
    torch.set_num_threads(2)
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    yield tmp_path / "torchebm"
    left = torch.get_num_threads()
    torch.set_num_threads(n_threads)
    assert left == 2


another_process = products._is_faster.__wrapped__


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this PyTorch has no oneDNN")
@pytest.mark.parametrize("ambient", ["usual", "float64", "autocast", "meta"])
def test_what_is_measured_is_float32_here_on_one_thread(ambient, new_machine, monkeypatch):
    seen, real = set(), products._linear

    def linear(a, b):
        seen.add((a.dtype, a.device.type, torch.is_autocast_enabled("cpu"), torch.get_num_threads()))
        return real(a, b)

    monkeypatch.setattr(products, "_linear", linear)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64 if ambient == "float64" else before)
    try:
        with torch.device("meta" if ambient == "meta" else "cpu"), torch.autocast("cpu", enabled=ambient == "autocast"):
            ratio = products._ratio(64)
    finally:
        torch.set_default_dtype(before)
    assert 0 < ratio < math.inf
    assert seen == {(torch.float32, "cpu", False, 1)}


def test_processes_choose_alike_where_the_two_are_level(new_machine, monkeypatch):
    measured = iter([0.94, 0.96])
    monkeypatch.setattr(products, "_ratio", lambda n_rows: next(measured))
    assert [another_process(8192, 0.95) for _ in range(2)] == [True, True]
    assert not another_process(512, 0.95)  # measured by itself


def test_those_who_begin_together_choose_alike(new_machine, monkeypatch):
    measured, all_there = iter([0.94, 0.96, 0.94, 0.96]), threading.Barrier(4)

    def ratio(n_rows):
        time.sleep(0.05)
        return next(measured)

    def choose(_):
        all_there.wait()
        return another_process(512, 0.95)

    monkeypatch.setattr(products, "_ratio", ratio)
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(choose, range(4))) == [True] * 4
    assert next(measured) == 0.96


def test_an_empty_file_is_measured_anew(new_machine, monkeypatch):
    measured = iter([0.8, 0.5])
    monkeypatch.setattr(products, "_ratio", lambda n_rows: next(measured))
    assert not another_process(512, 0.6)
    (file,) = (path for path in new_machine.iterdir() if path.suffix != ".lock")
    file.write_text("")
    assert another_process(512, 0.6)
    assert float(file.read_text()) == 0.5


@pytest.mark.parametrize("what", ["processor", "PyTorch", "frequency"])
def test_another_machine_measures_anew(what, new_machine, monkeypatch, tmp_path):
    measured, cpuinfo = iter([0.5, 0.8]), tmp_path / "cpuinfo"
    monkeypatch.setattr(products, "_ratio", lambda n_rows: next(measured))
    monkeypatch.setattr(products, "_CPUINFO", cpuinfo)
    cpuinfo.write_text("model name\t: one\ncpu MHz\t\t: 2596\n\nmodel name\t: one\ncpu MHz\t\t: 2600\n")
    assert another_process(512, 0.6)
    if what == "processor":
        cpuinfo.write_text(cpuinfo.read_text().replace("one", "another"))
    elif what == "frequency":
        cpuinfo.write_text(cpuinfo.read_text().replace("2596", "3000"))
    else:
        monkeypatch.setattr(torch, "__version__", "2.99")
    assert another_process(512, 0.6) is (what == "frequency")


def test_onednn_that_cannot_be_called_is_not_chosen_and_asked_again(new_machine, monkeypatch):
    def gone(a, b):
        raise RuntimeError("no such operator, or no memory for once")

    with monkeypatch.context() as patch:
        patch.setattr(products, "_linear", gone)
        assert not another_process(512, 0.6)
    monkeypatch.setattr(products, "_ratio", lambda n_rows: 0.5)
    assert another_process(512, 0.6)


@pytest.mark.parametrize(
    ("ours", "share", "faster", "first"),
    [(2.0, 0.6, True, 100.0), (3.0, 0.6, False, 0.1), (3.0, 0.95, True, 100.0), (4.0, 0.95, False, 0.1)],
)
def test_onednn_is_chosen_where_it_is_clearly_faster(new_machine, monkeypatch, ours, share, faster, first):
    def seconds(function):
        factor, took = next(slow), ours if "_linear" in function.__code__.co_names else 4.0
        return took * factor

    # what else is running slows down the two alike, but for the first pair
    slow = iter([first, 1.0, *(1.0 + k // 2 % 3 for k in range(2 * products._PAIRS - 2))])
    monkeypatch.setattr(products, "_seconds", seconds)
    assert another_process(512, share) is faster


@pytest.mark.parametrize(
    ("shape", "asked"),
    [
        ((2048, 128, 32), products._LARGE_CASE),
        ((2048, 32, 128), products._LARGE_CASE),
        ((2047, 128, 128), products._SMALL_CASE),
        ((1 << 20, 31, 128), None),
    ],
    ids=str,
)
def test_large_products_are_chosen_for_by_large_products(monkeypatch, shape, asked):
    cases = []
    monkeypatch.setattr(products, "_is_faster", lambda *case: cases.append(case) or True)
    assert products._is_for_onednn(*shape) is (asked is not None)
    assert cases == ([] if asked is None else [asked])


def test_the_key_of_compiled_code_tells_both_choices(monkeypatch):
    keys = set()
    for small in (True, False):
        for large in (True, False):
            chosen = {products._SMALL_CASE: small, products._LARGE_CASE: large}
            monkeypatch.setattr(products, "_is_faster", lambda *case, chosen=chosen: chosen[case])
            keys.add(products.settings())
    assert len(keys) == 4
