# `make help` lists what can be made. Every target that needs Python installs it first, into .venv.

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
STAMP := $(VENV)/.setup
TRITON := $(VENV)/.triton
# The torch to install instead of the one in constraints.txt: arguments of pip. Remembered until another one is given.
installed_torch := $(shell cat $(VENV)/.torch 2>/dev/null)
TORCH ?= $(installed_torch)

export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-all test-gpu soak fuzz lint format docs golden picture gallery gpu-kit wheel clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-9s  %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))
	@echo
	@echo "Another torch: make setup TORCH='torch==2.9.1 --index-url https://download.pytorch.org/whl/cu126'"
	@echo "Back to the one in constraints.txt: make setup TORCH="

# --- setting up -------------------------------------------------------------------------------------------------------

setup: $(STAMP) ## make .venv with lift3d in it; does nothing if it is up to date

ifneq ($(strip $(TORCH)),$(strip $(installed_torch)))
.PHONY: $(STAMP)
endif

$(STAMP): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "error: no $(PYTHON). hint: install Python 3.10 or newer, or make setup PYTHON=/path/to/python" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "error: $(PYTHON) is $$($(PYTHON) --version 2>&1), lift3d needs 3.10 or newer. hint: make setup PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "error: $(PYTHON) has no venv module. hint: on Debian and Ubuntu, apt install python3-venv" >&2; exit 1; }
	@$(RUN) -c '' 2>/dev/null || $(PYTHON) -m venv --clear $(VENV)
	@$(RUN) -m pip --version >/dev/null 2>&1 || $(RUN) -m ensurepip
ifeq ($(strip $(TORCH)),)
	$(RUN) -m pip install -c constraints.txt -e '.[dev]'
else
	$(RUN) -m pip install $(TORCH)
	@grep -vE '^(torch|triton)' constraints.txt > $(VENV)/constraints.txt
	$(RUN) -m pip install -c $(VENV)/constraints.txt -e '.[dev]'
endif
	@printf '%s\n' "$(TORCH)" > $(VENV)/.torch
	@touch $@

# --- trying it out ----------------------------------------------------------------------------------------------------

# In demo/, so that a demo leaves nothing in the example; small enough for two busy cores.
DEMO := cd demo && LIFT3D_CACHE=cache PATH="$(CURDIR)/$(VENV)/bin:$$PATH" && export LIFT3D_CACHE PATH && set -x &&

demo: $(STAMP) ## lift the colorizer over examples/tabletop: pictures and a video from new viewpoints, in demo/
	@mkdir -p demo
	@$(DEMO) lift3d encode ../examples/tabletop
	@$(DEMO) lift3d path ../examples/tabletop orbit --frames 12 --max-size 320 --fps 6
	@$(DEMO) lift3d render --poses path.json --views 5
	@$(DEMO) lift3d decode --task color --output . --move-aside
	@$(DEMO) lift3d decode --task colorize --output . --move-aside
	@$(DEMO) lift3d decode --task features --output . --move-aside
	@echo
	@echo "The example, from viewpoints that no photo was taken from:"
	@echo "  its colour  demo/color.mp4"
	@echo "  colorized   demo/colorize.mp4 and pictures such as demo/colorize/0007.png"
	@echo "  features    demo/features.mp4"

picture: demo ## make the picture of the README from the demo's results
	$(RUN) docs/make_picture.py

gallery: $(STAMP) ## make a picture of docs/gallery.md: the models that ship, on the example
	$(RUN) docs/make_gallery.py

# --- checking ---------------------------------------------------------------------------------------------------------

# Its interpreter runs the GPU's kernel on a CPU. A large wheel, only for Linux on x86-64; a CUDA torch brings its own.
$(TRITON): $(STAMP)
	@$(RUN) -c 'import triton' 2>/dev/null || $(RUN) -m pip install -c constraints.txt triton || echo "no triton: its tests are skipped"
	@touch $@

test: $(TRITON) ## run the tests that need no GPU and little time
	$(RUN) -m pytest -n auto --maxprocesses 4 --dist worksteal -m "not slow and not gpu"

test-all: $(TRITON) ## run the slow tests too, and those for a GPU if there is one
	$(RUN) -m pytest

test-gpu: $(STAMP) ## run the tests that need a CUDA device
	$(RUN) -m pytest -m gpu

KILLS ?= 60
# Not SECONDS in a shell: bash counts with it.
SECONDS ?= 120

soak: $(STAMP) ## kill commands at random moments, KILLS=60 times, and compare with uninterrupted runs
	$(RUN) tests/campaigns/soak.py --kills $(KILLS)

fuzz: $(STAMP) ## spoil the files of every reader for SECONDS=120; keep what is found in tests/campaigns/findings
	$(RUN) tests/campaigns/fuzz.py --seconds $(SECONDS)

lint: $(STAMP) ## check style and formatting
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .

format: $(STAMP) ## rewrite the code in the project's style
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .

# --- making things ----------------------------------------------------------------------------------------------------

docs: $(STAMP) ## write again what the documents repeat from the code: docs/cli.md, tables, counts
	$(RUN) docs/make_reference.py

golden: $(STAMP) ## write tests/golden/errors.json again after a wanted change of a message; then read the difference
	LIFT3D_UPDATE_GOLDEN=1 $(RUN) -m pytest tests/cli/test_errors.py

# Where the scenes to train on and to evaluate on are, and photos for textures; a run's checkpoint to go on from.
SCENES ?= ../shared/scenes
PHOTOS ?= ../shared/photos/train
STATE ?=

gpu-kit: $(STAMP) ## pack all that a bare GPU machine needs to train and evaluate, into build/gpu-kit
	$(RUN) -m lift3d_cli.training.gpu_kit build/gpu-kit --scenes $(SCENES) --photos $(PHOTOS) $(if $(STATE),--state $(STATE))

wheel: $(STAMP) ## build a wheel, with the weights in it, into dist/
	$(RUN) -m pip wheel . --no-deps --no-build-isolation --wheel-dir dist

clean: ## remove everything that is made, but not .venv
	rm -rf build dist demo lift3d-out .pytest_cache .ruff_cache src/*.egg-info
	find src tests docs -name __pycache__ -type d -exec rm -rf {} +
