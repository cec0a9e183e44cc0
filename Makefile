# xraytune: what you can do here. `make` alone lists it.
.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
# uv is taken from the PATH; where it is missing, a virtual environment of its own gets it.
UV := $(shell command -v uv 2>/dev/null || echo .uv/bin/uv)
PYTEST := $(BIN)/python -m pytest
# Keep the order of tests/conftest.py: xdist would start files with one test last, and those are the longest.
SIDE_BY_SIDE := -n auto --dist loadfile --no-loadscope-reorder
ONLY ?=
# If it were set, each of many short processes would compile the package and its tests again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help install demo test bits quick nightly gpu gpu-bench check docs release-check releases format faults bench lock clean

help: ## List what this file can do
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(INSTALLED) ## Install xraytune and its tools into .venv, from the hash-locked requirements

$(INSTALLED): requirements-dev.lock pyproject.toml
	@command -v $(UV) >/dev/null || { $(PYTHON) -m venv .uv && .uv/bin/pip install --quiet uv; }
	@test -x $(BIN)/python || $(UV) venv --quiet --python ">=3.11" $(VENV)
	@echo "installing into $(VENV): the first time about 3 GB to fetch"
	$(UV) pip install --quiet --compile-bytecode --python $(BIN)/python --require-hashes -r requirements-dev.lock
	$(UV) pip install --quiet --python $(BIN)/python --no-deps --editable .
	@$(BIN)/python -c "from torchvision.ops import nms" || \
	    { echo "torch and torchvision do not belong together: remove $(VENV) and run make install again"; exit 1; }
	@touch $@

demo: install ## The whole pipeline on phantom X-rays: from the search to the evaluation (minutes)
	$(BIN)/xraytune demo

# Results are equal to the bit only where torch uses the same instructions and precision.
OLDER_CPU := ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2
SAY_CPU := import torch; from xraytune.nets.compute import choose_compute as choose; \
    print("CPU:", torch.backends.cpu.get_cpu_capability(), choose(gpus=0, threads=1).precision)
BITS := tests/nets tests/synth tests/trial tests/model tests/faults/test_drill.py

# One worker more than there are cores: a test that starts Ray mostly waits for it.
test bits: export PYTEST_XDIST_AUTO_NUM_WORKERS = $(shell expr $$(getconf _NPROCESSORS_ONLN) + 1)
test: install ## All tests, on the CPU, where results are bit-identical
	@$(BIN)/python -c '$(SAY_CPU)'
	CUDA_VISIBLE_DEVICES= $(PYTEST) $(SIDE_BY_SIDE) -m "not gpu and not nightly"

bits: install ## The tests that compare bits, as on a CPU without AVX-512 and bfloat16 (two minutes)
	@$(OLDER_CPU) $(BIN)/python -c '$(SAY_CPU)'
	$(OLDER_CPU) CUDA_VISIBLE_DEVICES= $(PYTEST) $(SIDE_BY_SIDE) -m "not gpu and not nightly" $(BITS)

# What needs neither torch nor Ray, each of which takes seconds to import.
QUICK := tests/base tests/space tests/data tests/stats tests/study tests/search --ignore tests/search/ray tests/cli/test_console.py

quick: install ## The quick tests, before a commit: all but training and Ray (under a minute)
	CUDA_VISIBLE_DEVICES= $(PYTEST) -q $(SIDE_BY_SIDE) -m "not slow and not ray" $(QUICK)

nightly: export PYTEST_XDIST_AUTO_NUM_WORKERS = $(shell expr $$(getconf _NPROCESSORS_ONLN) + 1)
nightly: install ## The long tests: every command of the docs, all searches with Ray from end to end (about 20 minutes)
	CUDA_VISIBLE_DEVICES= $(PYTEST) $(SIDE_BY_SIDE) -m nightly

gpu: install ## The tests that need a GPU
	$(PYTEST) tests/gpu

gpu-bench: install ## Measure what a GPU, or several, do for a search (eight minutes); writes gpu.json
	$(BIN)/python -m benchmarks.gpu

check: install ## Format, lint, types, layers
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(PYTEST) -q tests/test_layers.py

docs: install ## Build the documentation site into site/; warnings are errors
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --site-dir site

release-check: install ## Build wheel and sdist, install the wheel in an empty environment, run the demo there
	UV=$(UV) .ci/release-check

format: install ## Format the code and fix what can be fixed automatically
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

releases: ## Test with the oldest and the newest dependencies that pyproject.toml allows (half an hour)
	UV=$(UV) .ci/releases-check lowest-direct
	UV=$(UV) .ci/releases-check highest

faults: install ## The long drills: kills and lost nodes (about an hour)
	XRAYTUNE_FAULTS=all $(PYTEST) -s tests/faults

bench: install ## Measure: all of benchmarks/, or make bench ONLY=name
	$(BIN)/python -m benchmarks $(ONLY)

LOCK := pip compile --quiet --generate-hashes --universal --python-version 3.11 --no-annotate pyproject.toml --extra dicom --extra segmentation --extra timm

lock: ## Write both lock files anew from pyproject.toml
	$(UV) $(LOCK) -o requirements.lock
	$(UV) $(LOCK) --extra dev -o requirements-dev.lock

clean: ## Remove the virtual environment and what tools left behind; never studies or models
	rm -rf $(VENV) .uv mutants .pytest_cache .mypy_cache .ruff_cache .hypothesis site
