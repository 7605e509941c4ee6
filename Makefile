# `make demo` and `make test` need Python >= 3.11 and nothing else: the first use creates .venv with pinned, tested versions.
PYTHON ?= python3
# Installer options of your own: a mirror, an index, a proxy.  make demo PIP_ARGS="--index-url https://..."
PIP_ARGS ?=
# Where PyTorch comes from: its CPU builds. `make setup TORCH_INDEX=` takes whatever the default index offers.
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
TORCH := torch==$(shell sed -n 's/^torch==//p' constraints.txt)
BIN := .venv/bin

.PHONY: setup demo test test-kernels mutation lint types bench bench-quick clean

setup: .venv/.complete

.venv/.complete: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "torchebm needs Python >= 3.11; this is " + sys.version.split()[0])'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --no-deps --retries 1 $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) $(PIP_ARGS) "$(TORCH)"
	$(BIN)/python -m pip install --quiet -c constraints.txt $(PIP_ARGS) -e ".[all,dev]"
	touch $@

# Learns an energy from 1,797 handwritten digits, samples it, judges the samples and draws a report.
demo: setup
	$(BIN)/torchebm train --data digits --out runs/digits --overwrite

# Two processes with a thread each: threads of several processes on the same cores wait for each other.
test: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2

# The kernels of accelerators, in Triton's interpreter on the CPU; without Triton, which takes 1 GB, `make test` skips them.
test-kernels: setup
	$(BIN)/python -m pip install --quiet $(PIP_ARGS) "triton==3.9.0"
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q tests/cuda

# Breaks each sampler on purpose, a sign or a term at a time, and shows that tests go red: tests/mutation.
mutation: setup
	$(BIN)/python tests/mutation/run.py --jobs 2

lint: setup
	$(BIN)/ruff check . && $(BIN)/ruff format --check .

types: setup
	$(BIN)/pyrefly check

# Side by side with others, on a quiet machine: benchmarks/README.md.  make bench PARTS="grid training"
PARTS ?= grid compilation posteriors training growth
bench: setup benchmarks/.venv-peers/.complete
	for part in $(PARTS); do $(BIN)/python benchmarks/$$part.py || exit 1; done
	$(BIN)/python benchmarks/figures.py

bench-quick: setup
	$(BIN)/python benchmarks/grid.py --quick

benchmarks/.venv-peers/.complete: benchmarks/peers.txt constraints.txt
	$(PYTHON) -m venv benchmarks/.venv-peers
	benchmarks/.venv-peers/bin/pip install --quiet --no-deps --retries 1 $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) $(PIP_ARGS) "$(TORCH)"
	benchmarks/.venv-peers/bin/pip install --quiet $(PIP_ARGS) -r benchmarks/peers.txt
	touch $@

clean:
	rm -rf .venv build dist
