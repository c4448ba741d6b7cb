# `make demo` and `make test` each start from a bare machine: they set up what they need by themselves.
# PYTHON chooses the interpreter (3.11 or newer), VENV the folder of the environment.

PYTHON ?= python3
VENV   ?= .venv

BIN      := $(VENV)/bin
PIP      := $(BIN)/python -m pip --disable-pip-version-check -qq
INSTALL  := $(PIP) install --no-deps --no-input
ENV_DONE := $(VENV)/.dependencies-installed
PKG_DONE := $(VENV)/.package-installed

.DEFAULT_GOAL := help
.PHONY: help setup same-python demo test test-slow test-all site examples lint types format lock clean
.DELETE_ON_ERROR:

help: ## show this list
	@echo "make TARGET [PYTHON=python3.12] [VENV=.venv]"
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 14

setup: $(PKG_DONE) ## make the environment, with everything the other targets need

# An environment made by another interpreter than the one asked for would answer in its name.
ifneq ($(origin PYTHON),file)
setup: same-python
endif

same-python: $(ENV_DONE)
	@asked=$$($(PYTHON) -c 'import platform; print(platform.python_version())') && \
	 found=$$($(BIN)/python -c 'import platform; print(platform.python_version())') && \
	 if [ "$$asked" != "$$found" ]; then \
		echo "$(VENV) holds Python $$found, and $(PYTHON) is $$asked: run make clean first, or name another folder with VENV=.venv-$$asked."; \
		exit 1; \
	 fi

demo: setup ## set up and run the demonstration
	@$(BIN)/python benchmarks/demo.py

test: setup ## set up and run the tests (all but the slow ones)
	@$(BIN)/python -m pytest -n auto -m "not slow and not long"

test-slow: setup ## set up and run the slow tests
	@$(BIN)/python -m pytest -n auto -m "slow and not long"

test-all: setup ## set up and run every test
	@$(BIN)/python -m pytest -n auto

site: setup ## build the documentation site into build/site; a broken link is an error
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build
	@echo "build/site/index.html"

examples: setup ## run the Python blocks of README.md and docs/, and every file of examples/
	@$(BIN)/python tools/run_readme.py README.md $(wildcard docs/*.md) examples

lint: setup ## check style and formatting
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

format: setup ## rewrite the code in the project's format, and fix what ruff can fix
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

types: setup ## check the types
	@PYRIGHT_PYTHON_IGNORE_WARNINGS=1 $(BIN)/pyright --pythonpath $(BIN)/python

lock: setup ## resolve the dependencies again and write requirements.lock (UPGRADE=1 takes the newest)
	@$(BIN)/uv pip compile pyproject.toml --no-config --quiet --universal --python-version 3.11 \
		--all-extras --generate-hashes --no-header --no-annotate $(if $(UPGRADE),--upgrade) \
		--output-file requirements.lock
	@! grep -nE ':/{2}|^ *-' requirements.lock | grep -v -- '--hash=sha256:' \
		|| { echo "requirements.lock holds an address; it may hold names, versions and hashes only."; exit 1; }

clean: ## remove the environment, caches and builds
	rm -rf $(VENV) build dist .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +

# The interpreter is checked before anything is written; an old one must be able to read this.
define CHECK_PYTHON
import sys
if sys.version_info < (3, 11):
    sys.exit('bilevax needs Python 3.11 or newer, and %s is %s: name another one, as in make PYTHON=python3.12.'
             % (sys.executable, sys.version.split()[0]))
try:
    import ensurepip, venv
except ImportError:
    sys.exit('%s has no venv module: install it (on Debian and Ubuntu: apt install python3-venv) and run make again.'
             % sys.executable)
endef
export CHECK_PYTHON

$(ENV_DONE): requirements.lock
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is not on the PATH: install Python 3.11 or newer, or name it with make PYTHON=..."; exit 1; }
	@$(PYTHON) -c "$$CHECK_PYTHON"
	@echo "Setting up $(VENV) with the packages of requirements.lock: once, two to five minutes, about 1 GB ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(INSTALL) --require-hashes --requirement requirements.lock
	@touch $@

# The build backend comes from requirements.lock, so that this step needs no network.
$(PKG_DONE): pyproject.toml $(ENV_DONE)
	@$(INSTALL) --no-build-isolation --editable .
	@touch $@
