# Lookalike: every target sets up what it needs. `make` alone lists them.

PYTHON ?= python3
OUT ?= demo-out
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
INSTALLING := $(VENV)/.installing
PEERS := $(VENV)/.peers

# Versions of the tools that install the rest; everything else is in constraints.txt.
PIP_VERSION := 26.3
UV_VERSION := 0.13.9

# Annoy comes as source, and its own build adds -ffast-math, which lets a compiler assume that no distance
# is infinite, while Annoy starts its queue at infinity: some compilers then return a single neighbour. Its
# AVX code is written out by hand and is as fast without. -march=native suits a build that stays on this machine;
# the image, which travels, asks for less (Dockerfile).
MACHINE := $(shell uname -m)
ANNOY_MARCH := $(if $(filter x86_64,$(MACHINE)),-march=native)
comma := ,
ANNOY_COMPILER_ARGS ?= $(addsuffix $(comma),$(ANNOY_MARCH))-O3,-std=c++14,-fpermissive,-DANNOYLIB_MULTITHREADED_BUILD

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

.PHONY: help
help: ## List the targets
	@echo 'Lookalike: show me products that look like this one.'
	@echo
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

.PHONY: install
install: $(INSTALLED) ## Make .venv with the locked versions of everything

.PHONY: demo
demo: $(INSTALLED) ## Run the main job on real pictures; results in OUT=demo-out, FROM=FOLDER takes your own
	$(BIN)/lookalike-worker demo --out '$(OUT)'$(if $(FROM), --from '$(FROM)')

.PHONY: test
# These measure time, or start and kill many processes: they have the machine for themselves. The rest runs in two
# processes, which take a file each.
ALONE := tests/faults $(patsubst %,tests/integration/test_%.py,benchmarks swaps)

test: $(INSTALLED) ## Run all tests (ARGS='-k name' for some)
ifdef ARGS
	$(BIN)/pytest $(ARGS)
else
	$(BIN)/pytest --numprocesses 2 --dist loadfile $(addprefix --ignore ,$(ALONE))
	$(BIN)/pytest $(ALONE)
endif

# What a few tests drive or read, where it is there: they are skipped without it.
PROGRAMS := /usr/bin/chromium:chromium /usr/bin/promtool:prometheus \
    /usr/share/datasets/fashion-mnist:dataset-fashion-mnist /usr/bin/redis-server:redis-server

.PHONY: programs
programs: ## Install what some tests are skipped without: browser, promtool, pictures, Redis (Debian, as root)
	@missing=; for each in $(PROGRAMS); do [ -e "$${each%%:*}" ] || missing="$$missing $${each##*:}"; done; \
	[ -z "$$missing" ] || { apt-get -qq update && \
	    DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends install $$missing >/dev/null; }

.PHONY: faults
faults: $(INSTALLED) ## Try to break every promise, a line for each (two hours; ARGS='redis --short' for some)
	$(BIN)/python -m tests.faults $(ARGS)

.PHONY: fuzz
fuzz: $(INSTALLED) ## Decode 20,000 broken pictures, none of which may end a child (ARGS='--seed 2' for others)
	$(BIN)/python -m tests.hostile.fuzz $(ARGS)

.PHONY: lint
lint: $(INSTALLED) ## Check style, formatting and who imports whom
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

.PHONY: types
types: $(INSTALLED) ## Check types
	$(BIN)/mypy

.PHONY: bench
bench: $(PEERS) ## Run every benchmark; results in bench-out/
	$(BIN)/python -m tests.benchmarks

.PHONY: bench-lookup
bench-lookup: $(INSTALLED) ## Lookups: latency beside a bare task, and how many a second
	$(BIN)/python -m tests.benchmarks.lookup

.PHONY: bench-gateway
bench-gateway: $(INSTALLED) ## Lookups over HTTP: what it adds, at a fixed rate, beside slow and huge requests
	$(BIN)/python -m tests.benchmarks.gateway

.PHONY: bench-ingest
bench-ingest: $(INSTALLED) ## Pictures a second through the queue, beside the bare decode+model loop
	$(BIN)/python -m tests.benchmarks.ingest

.PHONY: bench-decode
bench-decode: $(INSTALLED) ## Pictures a second of the decoding children, beside threads without a sandbox
	$(BIN)/python -m tests.benchmarks.decode

.PHONY: bench-index
bench-index: $(PEERS) ## The index beside six others, at a million vectors, fresh and filtered
	$(BIN)/python -m tests.benchmarks.index

.PHONY: bench-recipe
bench-recipe: $(PEERS) ## The classic recipe, pandas loop and plain Annoy, beside this index
	$(BIN)/python -m tests.benchmarks.recipe $(ARGS)

.PHONY: bench-train
bench-train: $(INSTALLED) ## Fine-tune on Fashion-MNIST and judge it beside ImageNet's weights (half an hour)
	$(BIN)/python -m tests.benchmarks.train $(ARGS)

.PHONY: bench-swap
bench-swap: $(INSTALLED) ## Lookups of four processes while the index is swapped
	$(BIN)/python -m tests.benchmarks.swap

.PHONY: lock
lock: ## Resolve constraints.txt anew from the pyprojects (UPGRADE=1 moves every version)
	@set -eu; tools=$$(mktemp -d); trap 'rm -rf "$$tools"' EXIT; \
	$(PYTHON) -m venv "$$tools"; \
	"$$tools/bin/python" -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION); \
	printf -- '-e .\n-e worker\n' | UV_CUSTOM_COMPILE_COMMAND='make lock' "$$tools/bin/uv" pip compile \
	    --quiet --universal --python-version 3.11 --fork-strategy fewest --no-emit-index-url \
	    --no-emit-package lookalike --no-emit-package lookalike-service $(if $(UPGRADE),--upgrade) \
	    --group dev --group bench --output-file constraints.txt - >/dev/null; \
	echo "constraints.txt: $$(grep -c == constraints.txt) versions"

.PHONY: clean
clean: ## Remove results and caches (not .venv, not lookalike-data)
	rm -rf demo-out bench-out dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -path ./$(VENV) -prune -o -name __pycache__ -type d -exec rm -rf {} +

.PHONY: distclean
distclean: clean ## Remove .venv too
	rm -rf $(VENV)

# -- set-up ---------------------------------------------------------------------------------------

# Two marks: `.installing` stands while packages are being written, so that an interrupted install is made
# again from nothing and never taken for a whole one; `.installed` is newer than what it was made from.
$(INSTALLED): pyproject.toml worker/pyproject.toml constraints.txt Makefile
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	    echo "error: Lookalike needs Python 3.11 or newer; '$(PYTHON)' is" \
	        "$$($(PYTHON) --version 2>/dev/null || echo 'not installed')." \
	        "Name another with: make PYTHON=python3.12 $(or $(MAKECMDGOALS),install)" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	    echo "error: $(PYTHON) cannot make virtual environments." \
	        "On Debian and Ubuntu: sudo apt install python3-venv" >&2; exit 1; }
	@$(check-compiler)
	@if [ -e $(INSTALLING) ]; then \
	    echo 'The last install was interrupted: starting over.'; rm -rf $(VENV); fi
	$(BIN)/python -c '' 2>/dev/null || $(PYTHON) -m venv --clear $(VENV)
	@rm -f $(INSTALLED); touch $(INSTALLING)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check pip==$(PIP_VERSION)
	@# Built here, not taken from pip's cache: a wheel made with other flags, or on another machine, may lie there.
	ANNOY_COMPILER_ARGS='$(ANNOY_COMPILER_ARGS)' \
	    $(BIN)/python -m pip install --quiet --no-cache-dir --no-binary annoy -c constraints.txt annoy
	@echo 'Installing the locked versions. PyTorch with its CUDA libraries is about 6 GB: this takes some minutes.'
	$(BIN)/python -m pip install --quiet -c constraints.txt -e . -e worker --group dev
	@rm -f $(INSTALLING)
	@touch $@
	@echo 'Installed. Next: make demo, make test, or $(BIN)/lookalike-worker up'

# The other libraries that the index is compared with.
$(PEERS): $(INSTALLED)
	$(BIN)/python -m pip install --quiet -c constraints.txt --group bench
	@touch $@

# Asked of the Python that will build: its own compilers (or CC and CXX), and its own headers.
define check-compiler
$(PYTHON) -c 'import os, shlex, subprocess, sysconfig as s; \
	[subprocess.run([*shlex.split(os.environ.get(v) or s.get_config_var(v)), "-x", "c++", "-fsyntax-only", \
	"-I" + s.get_path("include"), "-"], input=b"#include <Python.h>\n#include <vector>\n", check=True) \
	for v in ("CC", "CXX")]' >/dev/null 2>&1 || { \
	echo "error: Annoy is built from source, which needs a C++ compiler and the headers of Python." >&2; \
	echo "  Debian, Ubuntu:  sudo apt install g++ python3-dev" >&2; \
	echo "  Fedora, RHEL:    sudo dnf install gcc-c++ python3-devel" >&2; \
	echo "  Alpine:          does not work: PyTorch has no wheels for it" >&2; \
	echo "  macOS:           xcode-select --install" >&2; exit 1; }
endef
