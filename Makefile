# make demo   the main job: three sites train one model under encryption, on real MRI
# make test   every check and test but the slow ones
VENV   ?= .venv
PYTHON ?= python3
JOB    ?= brain_tissue
DATA   ?=
ROUNDS ?=
SECONDS ?= 60
TARGETS ?=
BIN    := $(abspath $(VENV))/bin
PEER   := build/bench/nvflare-env
BENCH  ?=
LOAD   ?=
N      ?= 20
SEED   ?= 1

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-all check fuzz format protos bench bench-quick load faults clean

help: ## Show what can be made
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 20

setup: $(VENV)/.installed ## Make the virtual environment in .venv with everything pinned

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[client,examples,postgresql,dev]'
	touch $@

demo: setup ## Run a federation of three sites here: make demo [JOB=hippocampus DATA=folder] [ROUNDS=n]
	$(BIN)/python examples/run_demo.py --job $(JOB) $(if $(DATA),--data $(DATA)) $(if $(ROUNDS),--rounds $(ROUNDS))

check: setup ## Lint, types, layer rule, generated code
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	PATH="$(BIN):$$PATH" protos/generate.sh build/generated
	diff -r -x __pycache__ build/generated fedhe/wire/generated

test: check ## All checks, and all tests but the slow ones, with coverage
	$(BIN)/python -m pytest -m "not slow" -n 2 --dist loadfile --no-loadscope-reorder --cov --cov-report=term:skip-covered --cov-report=xml

test-all: check ## All tests, the slow ones too
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --cov --cov-report=term:skip-covered --cov-report=xml

fuzz: setup ## Fuzz the readers of hostile bytes: make fuzz [SECONDS=60 for each] [TARGETS="roster kit"]
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[fuzz]'
	$(BIN)/python tests/fuzz/run.py $(TARGETS) --seconds $(SECONDS)

format: setup ## Let ruff mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

protos: setup ## Write fedhe/wire/generated from protos/
	PATH="$(BIN):$$PATH" protos/generate.sh

bench: setup $(PEER)/.installed ## Measure all, beside plain and NVFlare; takes half an hour, writes docs/benchmarks.md [BENCH='--turns 1']
	$(BIN)/python benchmarks/bench.py $(BENCH)

bench-quick: setup ## Measure small models in three minutes; writes build/bench
	$(BIN)/python benchmarks/bench.py --quick $(BENCH)

faults: setup ## Kills, power cuts, bad networks: make faults [N=20 schedules] [SEED=1 of the first]; writes build/faults
	$(BIN)/python benchmarks/faults.py --schedules $(N) --seed $(SEED)

# NVFlare keeps to an environment of its own.
$(PEER)/.installed:
	$(PYTHON) -m venv $(PEER)
	$(PEER)/bin/python -m pip install --quiet --disable-pip-version-check torch==2.13.0
	$(PEER)/bin/python -m pip install --quiet --disable-pip-version-check 'nvflare[HE]==2.9.0'
	touch $@

load: setup ## 200 sites in one process, 5 rounds, one real server; writes build/load/report.json [LOAD='--sites 50 --flood']
	$(BIN)/python benchmarks/load.py $(LOAD)

clean: ## Remove what was built, but not the environment
	rm -rf build .coverage coverage.xml .pytest_cache .mypy_cache .ruff_cache .hypothesis
