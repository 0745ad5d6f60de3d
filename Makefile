# Every target works on a machine with Python 3.11 or later, make and git: targets that need a virtual environment
# create it.

PYTHON ?= python3
VENV := .venv
VENV_WITHOUT_TORCH := .venv-without-torch
NODE_PACKAGES := examples/node-reader/node_modules
# One process more than there are cores, because many tests wait for other processes. Files are not split between
# processes, because the tests of a file share runs that take a while to create.
IN_PARALLEL = --numprocesses $(shell $(PYTHON) -c 'import os; print(1 + (os.cpu_count() or 1))') \
	--dist loadfile --no-loadscope-reorder
PIP := pip --disable-pip-version-check
PIP_INSTALL := $(PIP) install --quiet --constraint constraints.txt

# The frameworks that Trainwire is tested with, in groups whose requirements agree. To add a group, add the line of what
# pip installs for it, and write the file of its exact pins: make pin-integrations INTEGRATIONS=<group>
INTEGRATION_flair := --editable '.[flair]'
INTEGRATION_frameworks := accelerate keras lightning loguru pytorch-ignite structlog transformers trl
INTEGRATION_huggingface := accelerate transformers
PINS := tests/integrations/constraints
INTEGRATIONS := $(patsubst $(PINS)/%.txt,%,$(wildcard $(PINS)/*.txt))
VENV_INTEGRATIONS := .venv-integrations

.PHONY: help demo test lint types pytest test-without-torch test-integrations pin-integrations chaos cut fuzz bench \
	bench-quick clean

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1\t\2/p' Makefile | expand -t 24

demo: $(VENV)/.installed  ## train on real images with three sinks beside the training
	$(VENV)/bin/trainwire launch --sink loss-file --sink log-file --sink tensorboard -- $(VENV)/bin/python examples/digits.py

test: lint types pytest test-without-torch  ## run the linters, the type checker and every test

lint: $(VENV)/.installed  ## run the linter and check the format (ruff)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

types: $(VENV)/.installed  ## check the types (mypy --strict)
	$(VENV)/bin/mypy

pytest: $(VENV)/.installed $(NODE_PACKAGES)  ## test the trainer, and the trainer and the sinks together
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest $(IN_PARALLEL) tests/architecture tests/trainer tests/integration

test-without-torch: $(VENV_WITHOUT_TORCH)/.installed  ## test the protocol and the sinks without torch installed
	! $(VENV_WITHOUT_TORCH)/bin/python -c "import torch" 2>/dev/null
	$(VENV_WITHOUT_TORCH)/bin/python -m pytest $(IN_PARALLEL) tests/protocol tests/sinks

test-integrations: $(INTEGRATIONS:%=$(VENV_INTEGRATIONS)/%/.installed)  ## test with the frameworks in INTEGRATIONS, each group in an environment of its own
	set -e; for group in $(INTEGRATIONS); do \
		OMP_NUM_THREADS=1 $(VENV_INTEGRATIONS)/$$group/bin/python -m pytest tests/integrations/$$group; done

pin-integrations:  ## write the constraints of INTEGRATIONS: the newest versions, of all packages but torch
	set -e; for group in $(INTEGRATIONS); do $(MAKE) --no-print-directory $(VENV_INTEGRATIONS)/$$group/.pinned; done

# Without npm or the registry, the tests of the reader in Node are skipped, and nothing else changes.
$(NODE_PACKAGES): examples/node-reader/package-lock.json
	if command -v npm >/dev/null; then cd examples/node-reader && \
		npm ci --ignore-scripts --prefer-offline --fetch-retries=0 --no-audit --no-fund --loglevel=error && touch node_modules || true; fi

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Trainwire needs Python 3.11 or later")'
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/$(PIP_INSTALL) --editable '.[all,demo,dev]'
	touch $@

$(VENV_WITHOUT_TORCH)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV_WITHOUT_TORCH)
	$(VENV_WITHOUT_TORCH)/bin/$(PIP_INSTALL) --editable '.[sinks,dev]'
	touch $@

NOT_INSTALLED = { echo "make: the environment of the group $* is incomplete; if pip could not reach its package index, \
repeat 'make test-integrations' where it can. 'make test' does not need it." >&2; exit 1; }

$(VENV_INTEGRATIONS)/%/.installed: pyproject.toml $(PINS)/%.txt
	$(PYTHON) -m venv $(VENV_INTEGRATIONS)/$*
	$(VENV_INTEGRATIONS)/$*/bin/$(PIP) install --quiet --constraint $(PINS)/$*.txt \
		--editable '.[torch,tensorboard,media,tests]' $(INTEGRATION_$*) || $(NOT_INSTALLED)
	touch $@

# torch has the pin of constraints.txt, because a later one may draw packages for GPUs. Versions lose their local part,
# such as +cpu, which other machines may not have.
$(VENV_INTEGRATIONS)/%/.pinned: FORCE
	$(PYTHON) -m venv --clear $(VENV_INTEGRATIONS)/$*
	grep '^torch==' constraints.txt >$(VENV_INTEGRATIONS)/$*/torch.txt
	$(VENV_INTEGRATIONS)/$*/bin/$(PIP) install --quiet --constraint $(VENV_INTEGRATIONS)/$*/torch.txt \
		--editable '.[torch,tensorboard,media,tests]' $(INTEGRATION_$*) || $(NOT_INSTALLED)
	$(VENV_INTEGRATIONS)/$*/bin/$(PIP) list --format=freeze --exclude-editable --exclude pip | sed 's/+.*//' >$(PINS)/$*.txt

FORCE:

ROUNDS ?= 300
SEED ?= 1

chaos: $(VENV)/.installed  ## kill, stop and disconnect processes at random, in ROUNDS rounds from SEED on, and check all outputs
	PYTHONPATH=tests $(VENV)/bin/python -m chaos --rounds $(ROUNDS) --seed $(SEED)

cut: $(VENV)/.installed  ## cut the network between trainer, relay and sinks for a minute (requires root)
	CUT_SECONDS=60 $(VENV)/bin/python -m pytest tests/integration/test_three_hosts.py

fuzz: $(VENV)/.installed  ## run the property tests with 5,000 examples each
	$(VENV)/bin/python -m pytest -m hypothesis --hypothesis-profile=fuzz --timeout=1800

bench: $(VENV)/.installed-benchmarks  ## measure every budget and update docs/performance.md
	$(VENV)/bin/python -m benchmarks --write docs/performance.md
	$(VENV)/bin/python -m benchmarks.scale --plot docs/scale.svg

bench-quick: $(VENV)/.installed  ## run every benchmark briefly, to check that it works; the figures are meaningless
	$(VENV)/bin/python -m benchmarks --quick --without instructions_of_log

$(VENV)/.installed-benchmarks: $(VENV)/.installed
	$(VENV)/bin/$(PIP_INSTALL) --editable '.[benchmarks]'
	touch $@

clean:  ## remove everything that the targets created
	rm -rf $(VENV) $(VENV_WITHOUT_TORCH) $(VENV_INTEGRATIONS) $(NODE_PACKAGES) .mypy_cache .ruff_cache .pytest_cache .hypothesis
