# make demo   the whole job on Fashion-MNIST (DATASET=digits needs no network)
# make test   every fast test
# make test-fast   the unit tests that take no time, under a minute on two cores
# make docs   the documentation as a site, in build/site
# They make .venv and install the pinned set if it is missing.
# make test-cluster   needs root on Debian: a two-node Slurm and two network hosts on this machine
# make test-faults ROUNDS=100 SEED=1   trainings under kills, full disks and the like (ROUND=17: one)
# make fuzz INPUTS=20000 SEED=1        damaged and hostile files of every kind (INPUT=17: one)
# make test-wheel     builds the wheel and runs the digits demo from it, in an empty folder
# make test-gpu       needs a GPU, and skips itself without one; speeds go into build/gpu.json
# make test-cuml      installs cuML (4.6 GB) into .venv-cuml and binds our calls to it

PYTHON ?= python3
VENV ?= .venv
DATASET ?= fmnist
ROUNDS ?= 100
INPUTS ?= 20000
SEED ?= 1
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo docs test test-fast test-gpu test-cluster test-faults fuzz test-cuml test-wheel check bench clean

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade-strategy only-if-needed -c constraints.txt -e '.[dev]'
	touch $@

demo: $(READY)
	@if [ "$(DATASET)" = fmnist ] && [ ! -d data/fmnist ] && [ "$$(id -u)" = 0 ] \
	    && command -v apt-get >/dev/null && [ ! -d /usr/share/datasets/fashion-mnist ]; then \
	    echo "installing Debian's package dataset-fashion-mnist (Fashion-MNIST, 30 MB)"; \
	    { apt-get update -qq && apt-get install -y -qq dataset-fashion-mnist; } >/dev/null \
	        || echo "not installed; prepare will try a download"; \
	fi
	$(BIN)/vae-dist demo --dataset $(DATASET)

test-gpu: $(READY)
	$(BIN)/python -m pytest -rs tests/gpu

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: $(READY) check
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder -m 'not cluster' $(PYTEST) tests

test-fast: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile -m 'not slow' $(PYTEST) tests/unit

test-cluster: $(READY)
	$(BIN)/python -m pytest -q -m cluster $(PYTEST) tests/cluster

test-faults: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.faults.rounds --rounds $(ROUNDS) --seed $(SEED) $(if $(ROUND),--round $(ROUND)) $(FAULTS)

fuzz: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.fuzz.run --inputs $(INPUTS) --seed $(SEED) $(if $(INPUT),--input $(INPUT)) $(FUZZ)

test-wheel: $(READY) # the built wheel in an empty folder, with this environment's libraries
	bash tests/wheel/run.sh $(abspath $(BIN)/python)

test-cuml:
	bash tests/cuml/run.sh

docs: $(READY) # the site, in build/site; a broken link fails
	$(BIN)/python -m pip install --quiet --upgrade-strategy only-if-needed -c constraints.txt -e '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet

bench: $(READY)
	$(BIN)/vae-dist bench data

clean:
	rm -rf $(VENV) build *.egg-info
