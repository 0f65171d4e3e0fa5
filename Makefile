# make demo   installs, trains a small ViT on real digits, runs the whole chain on it, shows where the report lies
# make test   installs, runs the whole test suite on the CPU, reports coverage
# make check  what a change must pass: lint and test
#
# Another interpreter: make clean, then make PYTHON=python3.12 demo

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help demo test lint check clean

help:
	@sed -n 's/^# \{0,1\}//p;/^$$/q' Makefile

demo: $(VENV)/host.stamp
	$(BIN)/heartvit-edge quickstart --out demo --force
	@echo "The report of the demo: $(CURDIR)/demo/report.html"

test: $(VENV)/dev.stamp
	$(BIN)/pytest --cov --cov-report=term

lint: $(VENV)/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

check: lint test

# What make made, but not its results: demo/ and engines/ stay.
clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .coverage htmlcov
	find heartvit_edge tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

# Each stamp is as old as the last installation, so that a changed pyproject.toml installs again.
$(VENV)/%.stamp: pyproject.toml $(VENV)/venv.stamp
	$(PIP) install --editable '.[$*]'
	@touch $@

$(VENV)/venv.stamp:
	@command -v $(PYTHON) >/dev/null || { \
	  echo "error: there is no $(PYTHON), expected Python 3.10 or later"; \
	  echo "hint: sudo apt install python3 python3-venv, or name yours: make PYTHON=python3.12"; exit 3; } >&2
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
	  echo "error: found $$($(PYTHON) --version), expected Python 3.10 or later"; \
	  echo "hint: name another: make PYTHON=python3.12"; exit 3; } >&2
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  version=$$($(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])'); \
	  echo "error: $(PYTHON) cannot make virtual environments: its venv module is not whole"; \
	  echo "hint: sudo apt install python$$version-venv"; exit 3; } >&2
	$(PYTHON) -m venv $(VENV)
	@touch $@
