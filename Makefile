# make demo   the whole job on Fashion-MNIST (DATASET=digits needs no network)
# make test   every fast test
# Both make .venv and install the pinned set if it is missing.

PYTHON ?= python3
VENV ?= .venv
DATASET ?= fmnist
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test test-cluster test-cuml check bench clean

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade-strategy only-if-needed -c constraints.txt -e '.[dev]'
	touch $@

demo: $(READY)
	$(BIN)/vae-dist demo --dataset $(DATASET)

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: $(READY) check
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadgroup -m 'not cluster' tests

test-cluster: $(READY)
	$(BIN)/python -m pytest -q -m cluster tests/cluster

bench: $(READY)
	$(BIN)/vae-dist bench data

clean:
	rm -rf $(VENV) build *.egg-info
