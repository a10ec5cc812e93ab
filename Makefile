# From a bare clone: `make quickstart` trains, `make test` tests. Everything is installed once, into .venv.
SHELL := /bin/bash
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
BENCHMARKS := $(wildcard benchmarks/[a-z]*.py)
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help install quickstart sweep teacher test slow chaos lint check bench docs gpu-kit upgrade-check clean

help:  ## this list
	@awk -F ':.*  ## *' '/^[a-z-]+:.*  ## / { printf "make %-12s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "ray_distill needs Python 3.11 or newer, as in: make install PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -c constraints.txt -e '.[dev,examples]'
	@touch $@

install: $(INSTALLED)  ## the package and its tools into .venv, once

quickstart: install  ## distil a small teacher of moving digits on this machine; ARGS="key=value ..." overrides
	$(BIN)/python examples/moving_digits.py data/digits
	$(BIN)/ray-distill train configs/quickstart.yaml $(ARGS)

sweep: install  ## search around the quickstart, two trials at a time; ARGS="key=value ..." overrides
	$(BIN)/python examples/moving_digits.py data/digits
	$(BIN)/ray-distill tune configs/sweep_quickstart.yaml $(ARGS)

teacher: install  ## train anew the teacher that the quickstart ships with
	$(BIN)/python examples/moving_digits.py data/digits
	$(BIN)/python examples/digits_base.py data/digits examples/digits_teacher
	$(BIN)/ray-distill train configs/teacher_quickstart.yaml $(ARGS)
	cp output/digits_teacher/export/transformer/* examples/digits_teacher/transformer/

# Units fill the cores that the others leave idle: Ray gives its workers a nice of 15. Each file's on one worker, for what it caches.
test: install  ## the tests: Ray, then two gangs of gloo processes, and beside them units, whose lines come last
	@log=$$(mktemp); trap 'kill $$units 2>/dev/null; rm -f $$log' EXIT; failed=0; \
	OMP_NUM_THREADS=1 nice -n 19 $(BIN)/python -m pytest tests/unit -n auto --dist loadfile -m "not slow" --durations=5 \
		>$$log 2>&1 & units=$$!; \
	$(BIN)/python -m pytest tests/ray --durations=5 || failed=1; \
	$(BIN)/python -m pytest tests/gang -n 2 --dist loadfile -m "not slow" --durations=5 || failed=1; \
	wait $$units || failed=1; cat $$log; exit $$failed

slow: install  ## tests that take minutes: killed workers and sweeps, SimpleTuner's files, the benchmarks
	$(BIN)/python -m pytest tests/slow --durations=5
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/unit -n auto -m slow
	$(BIN)/python -m pytest tests/gang -m slow

chaos: install  ## 23 faults over a tiny run on three Ray nodes of this machine; ARGS="--seed 1"
	$(BIN)/python -m tests.chaos.chaos $(ARGS)

lint: install  ## format, style and types, changing nothing
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

check: lint test  ## all that a change must pass

bench: install  ## every benchmark but the GPU kit, each printing its table
	@set -e; for script in $(filter-out benchmarks/gpu.py,$(BENCHMARKS)); do echo "== $$script"; $(BIN)/python $$script; done

docs: install  ## API pages of the nouns, the mathematics, the methods and the models, into build/api
	$(BIN)/python docs/api.py build/api

gpu-kit: install  ## gpu-kit.tar for a machine with a GPU and torch alone; docs/benchmarks.md has its command
	rm -rf gpu-kit && mkdir gpu-kit && cp benchmarks/gpu.py benchmarks/_gpu_cases.py gpu-kit/
	DS_BUILD_OPS=0 $(BIN)/python -m pip wheel -q --no-deps -w gpu-kit -c constraints.txt . -r benchmarks/gpu.txt
	tar cf gpu-kit.tar gpu-kit && rm -r gpu-kit && ls -lh gpu-kit.tar

upgrade-check:  ## docs/stack.md against the newest libraries that pyproject.toml allows, in .venv-newest
	$(PYTHON) -m venv --clear .venv-newest
	.venv-newest/bin/pip install -q --upgrade -e '.[dev,examples]'
	.venv-newest/bin/python -m docs.upgrade

clean:  ## remove .venv and caches; data, runs and outputs stay
	rm -rf .venv .venv-newest build *.egg-info .mypy_cache .pytest_cache .ruff_cache
	find ray_distill tests examples benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
