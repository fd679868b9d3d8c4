# `make demo` and `make test` install what they need into .venv on the first call.

PYTHON ?= python3
VENV ?= .venv
DEMO ?= runs/demo
BIN := $(VENV)/bin
TORCH := $(shell sed -n 's/^torch==//p' constraints.txt)
CPU_WHEELS := https://download.pytorch.org/whl/cpu

.DEFAULT_GOAL := help
.PHONY: help install demo test lint clean

help:
	@echo "make demo   the whole path at laptop size: place, solve, learn, anneal, report ($(DEMO)/report.html)"
	@echo "make test   lint, type check and tests"
	@echo "make clean  remove caches and builds; runs/ and $(VENV) stay"

install: $(VENV)/.installed

# Without a GPU the CPU build of torch is a tenth of the size: take it where an index offers it, else the usual one.
$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "gpuion needs Python 3.11 or newer: make PYTHON=/path/to/python3.11"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@nvidia-smi > /dev/null 2>&1 || $(BIN)/python -c 'import torch' 2> /dev/null || \
	  $(BIN)/pip install -q "torch==$(TORCH)+cpu" 2> /dev/null || \
	  $(BIN)/pip install -q --retries 1 --timeout 15 --index-url $(CPU_WHEELS) "torch==$(TORCH)" 2> /dev/null || \
	  echo "no CPU build of torch on offer: taking the usual one, which is several gigabytes"
	$(BIN)/pip install -q -c constraints.txt -e '.[plot,test]'
	touch $@

demo: install
	$(BIN)/python demo.py --out $(DEMO)

test: lint
	$(BIN)/python -m pytest

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
