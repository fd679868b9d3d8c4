# `make demo` and `make test` install what they need into .venv on the first call.

PYTHON ?= python3
VENV ?= .venv
DEMO ?= runs/demo
STUDY ?= data
SEARCH ?= runs/search
FROM ?= data
PAPER ?= runs/paper
RANKS ?= $(shell nproc)
BIN := $(VENV)/bin
TORCH := $(shell sed -n 's/^torch==//p' constraints.txt)
CPU_WHEELS := https://download.pytorch.org/whl/cpu

.DEFAULT_GOAL := help
.PHONY: help install demo study search schedule paper docs test lint clean

help:
	@echo "make demo   the whole path at laptop size: place, solve, learn, anneal, report ($(DEMO)/report.html)"
	@echo "make study  what data/ holds (but data/annealed), remade or completed; STUDY=runs/study makes it elsewhere"
	@echo "make search searches for the best and the worst conductor, side by side ($(SEARCH)/compare.md)"
	@echo "make schedule the paper's whole annealing schedule, ten chains each way, to join make search ($(SEARCH))"
	@echo "make paper  every figure and table of the paper, from the study in FROM=data ($(PAPER)/paper.md)"
	@echo "make docs   the documentation as pages, in site/"
	@echo "make test   lint, type check, documentation and tests"
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

# Place and solve; learn; anneal and solve again; learn from that; anneal once more; take the last steps on the exact
# solver; learn by the paper's ways, to compare, and once more from what annealing met; label test structures with fewer and
# with more spheres, to try the networks on; show. Each stage can be stopped and goes on where it was.
LAPTOP := --preset laptop
TRAIN := $(BIN)/python train.py $(LAPTOP)
EPOCHS := --epochs 60 --batch 32 --learning-rate 3e-3
OTHER = $(BIN)/python simulate.py $(LAPTOP) --source $(DEMO)/dataset --of test --structures 60

demo: install
	$(BIN)/python simulate.py $(LAPTOP) --out $(DEMO)/dataset
	$(BIN)/python simulate.py $(LAPTOP) --method both --structures 12 --tolerance 1e-3 --out $(DEMO)/check
	$(TRAIN) --data $(DEMO)/dataset --out $(DEMO)/model-1
	$(BIN)/python anneal.py $(LAPTOP) --data $(DEMO)/dataset --checkpoint $(DEMO)/model-1/surrogate.pt \
	  --out $(DEMO)/round-1
	$(TRAIN) --data $(DEMO)/dataset $(DEMO)/round-1 --out $(DEMO)/model-2 \
	  --checkpoint $(DEMO)/model-1/surrogate.pt --epochs 20 --learning-rate 3e-3
	$(BIN)/python anneal.py $(LAPTOP) --data $(DEMO)/dataset $(DEMO)/round-1 \
	  --checkpoint $(DEMO)/model-2/surrogate.pt --out $(DEMO)/round-2 --seed 1
	$(BIN)/python anneal.py $(LAPTOP) --data $(DEMO)/dataset $(DEMO)/round-1 $(DEMO)/round-2 --score exact \
	  --chains 8 --cycles 25 --steps 20 --temperature 5e-5 --relabel 0 --out $(DEMO)/polish --seed 2
	$(BIN)/python -m gpuion.dataset merge $(DEMO)/round-1 $(DEMO)/round-2 $(DEMO)/polish --out $(DEMO)/annealed
	cp $(DEMO)/model-2/surrogate.pt $(DEMO)/surrogate.pt
	$(TRAIN) --data $(DEMO)/dataset --model nearest $(EPOCHS) --out $(DEMO)/nearest
	$(TRAIN) --data $(DEMO)/dataset --model pairs $(EPOCHS) --out $(DEMO)/pairs
	$(TRAIN) --data $(DEMO)/dataset --model periodic --epochs 10 --learning-rate 1e-2 --out $(DEMO)/cnn-1
	$(TRAIN) --data $(DEMO)/dataset $(DEMO)/round-1 --model periodic --epochs 3 --learning-rate 1e-3 \
	  --checkpoint $(DEMO)/cnn-1/surrogate.pt --out $(DEMO)/cnn-2
	$(OTHER) --particles 14 --out $(DEMO)/phi-0.05
	$(OTHER) --particles 41 --out $(DEMO)/phi-0.15
	$(BIN)/python -m gpuion.report $(DEMO)

# The paper's arrangements at one site a voxel, then some of them on finer lattices, with walks, and with fewer and more
# spheres; the survey draws them for docs/data.md.
EACH = $(BIN)/python -m torch.distributed.run --standalone --nproc-per-node $(RANKS) simulate.py --preset study

study: install
	$(EACH) --out $(STUDY)/study
	$(BIN)/python -m gpuion.dataset split $(STUDY)/study
	$(EACH) --structures 60 --sites-per-voxel 2 --shard 30 --batch 1 --out $(STUDY)/study-2
	$(EACH) --structures 60 --sites-per-voxel 3 --shard 30 --batch 1 --out $(STUDY)/study-3
	$(BIN)/python simulate.py --preset study --structures 12 --sites-per-voxel 5 --batch 1 --out $(STUDY)/study-5
	$(EACH) --structures 90 --method both --shard 45 --batch 1 --out $(STUDY)/study-walks
	$(EACH) --source $(STUDY)/study --of test --structures 400 --particles 46 --shard 200 --out $(STUDY)/phi-0.05
	$(EACH) --source $(STUDY)/study --of test --structures 400 --particles 137 --shard 200 --out $(STUDY)/phi-0.15
	$(BIN)/python -m gpuion.survey $(STUDY)/study --finer $(STUDY)/study-2 $(STUDY)/study-3 $(STUDY)/study-5 \
	  --walks $(STUDY)/study-walks --out $(if $(filter data,$(STUDY)),docs/data,$(STUDY)/survey)

# Searches for the best and the worst arrangement of the study, some 90 minutes of one core; docs/annealing.md tells of
# each. The paper's rule with fewer steps; annealing from the data's extremes, and from arrangements built by hand;
# learning from all of these, and annealing again; and the exact gradient of D, from random arrangements and from these.
RULE := --chains 5 --steps 500 --samples 10 --relabel 25
BEGIN := --start data --chains 5 --samples 20
NEAR := $(BEGIN) --cycles 5 --steps 120 --temperature 5e-3 --cooling 0.5 --relabel 30
MET = $(SEARCH)/round-1 $(SEARCH)/designs $(SEARCH)/from-designs
FIRST = --checkpoint $(SEARCH)/model-1/surrogate.pt
CLIMB = $(BIN)/python -m gpuion.climb
POLISH := --start data --steps 24 --stride 0.5
CLIMBED = $(SEARCH)/climbed-up $(SEARCH)/climbed-down
WHOLE = $(patsubst %/dataset.json,%,$(wildcard $(SEARCH)/paper-full-*/dataset.json))

# The paper's whole schedule on the network that comes with gpuion, ten chains each way: some 25 and 45 minutes of a core.
# What it found joins `make search`.
TEN := --chains 10 --steps 2500 --relabel 90 --seed 1

schedule: install
	$(BIN)/python anneal.py $(TEN) --maximize --cycles 50 --data $(STUDY)/study --out $(SEARCH)/paper-full-up
	$(BIN)/python anneal.py $(TEN) --minimize --cycles 100 --data $(STUDY)/study --out $(SEARCH)/paper-full-down

search: install
	$(BIN)/python train.py --preset study --seed 1 --data $(STUDY)/study --out $(SEARCH)/model-1
	$(BIN)/python anneal.py $(RULE) --maximize --cycles 30 --data $(STUDY)/study $(FIRST) --out $(SEARCH)/paper-up
	$(BIN)/python anneal.py $(RULE) --minimize --cycles 13 --data $(STUDY)/study $(FIRST) --out $(SEARCH)/paper-down
	$(BIN)/python anneal.py $(BEGIN) --cycles 6 --steps 200 --cooling 0.5 --relabel 25 --data $(STUDY)/study $(FIRST) \
	  --out $(SEARCH)/round-1
	$(BIN)/python anneal.py --maximize --start ascent --chains 5 --cycles 8 --steps 250 --cooling 0.6 --samples 20 \
	  --relabel 25 --data $(STUDY)/study $(FIRST) --out $(SEARCH)/from-ascent
	$(BIN)/python -m gpuion.designs $(STUDY)/study --out $(SEARCH)/designs
	$(BIN)/python anneal.py $(NEAR) --maximize --data $(STUDY)/study $(SEARCH)/designs $(FIRST) \
	  --out $(SEARCH)/from-designs
	$(BIN)/python train.py --preset study --epochs 2 --learning-rate 1e-3 --data $(STUDY)/study $(MET) $(FIRST) \
	  --out $(SEARCH)/model-2
	$(BIN)/python anneal.py $(NEAR) --data $(STUDY)/study $(MET) --checkpoint $(SEARCH)/model-2/surrogate.pt --seed 1 \
	  --out $(SEARCH)/round-2
	$(CLIMB) --data $(STUDY)/study --steps 64 --out $(SEARCH)/climbed-up
	$(CLIMB) --data $(STUDY)/study --steps 64 --minimize --out $(SEARCH)/climbed-down
	$(CLIMB) --data $(STUDY)/study $(SEARCH)/paper-up $(POLISH) --out $(SEARCH)/polished-rule
	$(CLIMB) --data $(STUDY)/study $(SEARCH)/designs $(POLISH) --out $(SEARCH)/polished-up
	$(CLIMB) --data $(STUDY)/study $(SEARCH)/designs $(POLISH) --minimize --out $(SEARCH)/polished-down
	$(BIN)/python -m gpuion.compare $(STUDY)/study --finer 2 3 --out $(SEARCH) --runs $(SEARCH)/paper-up \
	  $(SEARCH)/paper-down $(SEARCH)/from-ascent $(MET) $(SEARCH)/round-2 $(CLIMBED) \
	  $(SEARCH)/polished-rule $(SEARCH)/polished-up $(SEARCH)/polished-down $(WHOLE)
	$(BIN)/python -m gpuion.dataset merge $(WHOLE) $(SEARCH)/paper-up $(SEARCH)/paper-down $(SEARCH)/round-1 \
	  $(SEARCH)/from-ascent $(SEARCH)/designs $(CLIMBED) $(SEARCH)/polished-rule $(SEARCH)/polished-up \
	  $(SEARCH)/polished-down --out $(SEARCH)/annealed

# The paper's figures and tables for the study. Every stage goes on where it was stopped and is left alone once it is
# done; a folder that is there already is taken. Annealing and learning in rounds, a fifth of the paper's steps and half
# of its chains, begins with the network that comes with gpuion. Of the last round nobody has learnt: it tells how far off
# the networks are after retraining. Minutes of one core: descriptors 1 each, the image network 12 and 3, a round 10, the
# report 8.
ROUNDS := --rounds 3 --chains 5 --cycles 50 --steps 500 --relabel 300 --relabel-min 150 --tolerance 2e-3
AS_LINKS := study=dataset study-walks=check phi-0.05=phi-0.05 phi-0.15=phi-0.15
LEARN = $(BIN)/python train.py --data $(PAPER)/dataset
LEARNT = $$(cd $(PAPER) && ls -d round-* | sed '$$d; s|^|$(PAPER)/|')

paper: install
	mkdir -p $(PAPER)/model-1
	for pair in $(AS_LINKS); do test ! -d $(FROM)/$${pair%=*} || \
	  ln -sfn $(abspath $(FROM))/$${pair%=*} $(PAPER)/$${pair#*=}; done
	cp gpuion/pretrained/network.pt $(PAPER)/model-1/surrogate.pt
	test -f $(PAPER)/nearest/metrics.json || $(LEARN) --model nearest $(EPOCHS) --out $(PAPER)/nearest
	test -f $(PAPER)/pairs/metrics.json || $(LEARN) --model pairs $(EPOCHS) --out $(PAPER)/pairs
	test -f $(PAPER)/cnn-1/metrics.json || $(LEARN) --model periodic --epochs 20 --out $(PAPER)/cnn-1
	$(BIN)/python anneal.py $(ROUNDS) --data $(PAPER)/dataset --checkpoint $(PAPER)/model-1/surrogate.pt \
	  --out $(PAPER)/loop
	cd $(PAPER) && for k in 1 2 3; do test ! -d loop/round-$$k || ln -sfn loop/round-$$k round-$$k; \
	  test ! -d loop/round-$$((k + 1)) || ln -sfn loop/model-$$k model-$$((k + 1)); done
	test -f $(PAPER)/cnn-2/metrics.json || test -z "$(LEARNT)" || $(LEARN) $(LEARNT) --model periodic \
	  --epochs 3 --learning-rate 1e-3 --checkpoint $(PAPER)/cnn-1/surrogate.pt --out $(PAPER)/cnn-2
	$(BIN)/python -m gpuion.report $(PAPER) || test $$? = 3  # so few cycles do not beat the data's worst

# The pages, any warning being an error. They ask no other machine for anything, neither here nor in a browser.
docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

$(VENV)/.docs: $(VENV)/.installed
	$(BIN)/pip install -q -c constraints.txt -e '.[docs]'
	touch $@

test: lint docs
	$(BIN)/python -m coverage run -m pytest
	$(BIN)/python -m coverage report
	$(BIN)/python tests/branches.py

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf build dist site .coverage *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
