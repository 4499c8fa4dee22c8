# Each target creates the environment that it needs, so every target works on a fresh checkout.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.PHONY: help demo demo-stop test test-fast lint chaos promises bench screenshots clean

PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt
export PUBLISHER_DEVCLOUD_VENV ?= $(CURDIR)/.venv-devcloud

help:  ## show this list
	@sed -nE 's/^([a-z-]+):.*## (.*)/  make \1|\2/p' Makefile | column -t -s '|'

demo: .venv/.runtime  ## publish two images to a real OpenStack cloud on this machine; KEEP=1 leaves it running
	@$(BIN)/python -m demo.run $(if $(KEEP),--keep)

demo-stop: .venv/.runtime  ## stop what `make demo KEEP=1` left running
	@$(BIN)/python -m demo.run --stop

# The runner replaces the shell, so that a signal to `make` reaches it. It stops every process that the tests have started.
RUN := exec $(BIN)/python -m tests.runner

test: .venv/.development  ## run all tests, against real servers
	@$(RUN) test

test-fast: .venv/.development  ## run the tests that need no server and little time
	@$(RUN) test-fast

lint: .venv/.development  ## check style, types and import directions
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

chaos: .venv/.development  ## inject faults for MINUTES=2 while images are published; options: SEED, STORE, BROKER, KEEP
	@$(RUN) chaos --minutes $(or $(MINUTES),2) $(if $(SEED),--seed $(SEED)) \
		--store $(or $(STORE),sqlite) --broker $(or $(BROKER),embedded) $(if $(KEEP),--keep)

promises: .venv/.development  ## measure the promised time limits at full size: 1 GiB images, the default lease
	@$(RUN) promises

bench: .venv/.development  ## measure the intake, and compare an upload with other ways to send an image
	$(BIN)/python -m bench.intake
	$(BIN)/python -m bench.upload
	$(BIN)/python -m bench.longpoll
	$(BIN)/python -m bench.console
	$(BIN)/python -m bench.signins
	$(BIN)/python -m bench.commands
	$(BIN)/python -m bench.servers
	$(BIN)/python -m bench.lists

screenshots: .venv/.development  ## save screenshots of the console's main pages in docs/screenshots
	$(BIN)/python -m tests.browser.screenshots

clean:  ## remove everything that these targets have created
	[ ! -x $(BIN)/python ] || $(BIN)/python -m demo.run --stop || true
	rm -rf .venv .venv-devcloud .venv-devcloud.lock .demo .test-run .bench .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis *.egg-info

.venv/.runtime: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Python 3.11 or newer is needed; make PYTHON=python3.12 …")'
	@[ -x $(BIN)/python ] || $(PYTHON) -m venv .venv || { rm -rf .venv; echo 'On Debian: apt-get install python3-venv' >&2; exit 1; }
	@echo 'Installing the publisher into .venv (a minute or two)'
	@$(PIP) --editable '.[devcloud]'
	@touch $@

.venv/.development: .venv/.runtime
	@echo 'Installing the packages that the tests need'
	@$(PIP) --editable '.[dev]'
	@touch $@
