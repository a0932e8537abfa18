# All that is needed is Python 3.11 or later and make: the rest goes into .venv, made on first use.
PYTHON ?= python3
BIN := .venv/bin
RECIPE ?=
ARGS ?=
BENCHMARKS := saturation pushdown overhead dedup filter reward

.DEFAULT_GOAL := help
.PHONY: help ready demo build air pro test check bench clean

help:  ## print this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

ready:
	@command -v $(PYTHON) >/dev/null || { echo "no $(PYTHON) here; install Python 3.11 or later, or name yours: make PYTHON=/path/to/python3"; exit 1; }
	@$(PYTHON) scripts/setup.py

demo: ready  ## build a small dataset into runs/demo, and show it
	@$(BIN)/magpie build recipes/demo.yaml --out runs/demo
	@$(BIN)/magpie show runs/demo

build: ready  ## build any recipe: make build RECIPE=recipes/air.yaml ARGS="--rows 1000"
	@test -n "$(RECIPE)" || { echo "say which: make build RECIPE=recipes/demo.yaml"; exit 2; }
	@$(BIN)/magpie build $(RECIPE) $(ARGS)

air: ready  ## build recipes/air.yaml into runs/air (needs a GPU)
	@$(BIN)/magpie build recipes/air.yaml --out runs/air $(ARGS)

pro: ready  ## build recipes/pro.yaml into runs/pro (needs four GPUs)
	@$(BIN)/magpie build recipes/pro.yaml --out runs/pro $(ARGS)

# Real models want every core, so their tests go one after another; all others share the cores.
test: ready  ## run the tests, or some: make test ARGS="tests/recipe -x"
ifeq ($(strip $(ARGS)),)
	@$(BIN)/python -m pytest -m slow
	@$(BIN)/python -m pytest -m "not slow" -n logical --dist loadfile
else
	@$(BIN)/python -m pytest $(ARGS)
endif

check: ready  ## lint, formatting, types
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy

bench: ready  ## run every benchmark, the quick way
	@for name in $(BENCHMARKS); do $(BIN)/python -m benchmarks.$$name --quick || exit 1; done

clean:  ## remove .venv and every cache; runs/ stays
	@rm -rf .venv .venv.discarded build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
