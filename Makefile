# Everything works from nothing: each target makes the environment that it needs.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.PHONY: help demo demo-stop test test-fast lint chaos promises bench screenshots clean

PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt
export PUBLISHER_DEVCLOUD_VENV ?= $(CURDIR)/.venv-devcloud

help:  ## this list
	@sed -nE 's/^([a-z-]+):.*## (.*)/  make \1|\2/p' Makefile | column -t -s '|'

demo: .venv/.runtime  ## publish two images to a real OpenStack cloud on this machine; KEEP=1 leaves it running
	@$(BIN)/python -m demo.run $(if $(KEEP),--keep)

demo-stop: .venv/.runtime  ## stop what `make demo KEEP=1` left running
	@$(BIN)/python -m demo.run --stop

# The runner takes the shell's place, so that a signal to `make` reaches it; it ends all that tests have started.
RUN := exec $(BIN)/python -m tests.runner

test: .venv/.development  ## all tests, against real servers
	@$(RUN) test

test-fast: .venv/.development  ## the tests that need no server, nor much time
	@$(RUN) test-fast

lint: .venv/.development  ## style, types, directions of imports
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

chaos: .venv/.development  ## kill, pause, cut and fill things for MINUTES=2 while images are published; SEED, STORE, BROKER, KEEP
	@$(RUN) chaos --minutes $(or $(MINUTES),2) $(if $(SEED),--seed $(SEED)) \
		--store $(or $(STORE),sqlite) --broker $(or $(BROKER),embedded) $(if $(KEEP),--keep)

promises: .venv/.development  ## what is promised of time, at full size: 1 GiB images, the default lease
	@$(RUN) promises

bench: .venv/.development  ## what the intake takes, and an upload beside other ways to send an image
	$(BIN)/python -m bench.intake
	$(BIN)/python -m bench.upload
	$(BIN)/python -m bench.longpoll
	$(BIN)/python -m bench.console
	$(BIN)/python -m bench.signins

screenshots: .venv/.development  ## pictures of the console's main pages, into docs/screenshots
	$(BIN)/python -m tests.browser.screenshots

clean:  ## remove all that these targets made
	[ ! -x $(BIN)/python ] || $(BIN)/python -m demo.run --stop || true
	rm -rf .venv .venv-devcloud .venv-devcloud.lock .demo .test-run .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis *.egg-info

.venv/.runtime: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Python 3.11 or newer is needed; make PYTHON=python3.12 …")'
	@[ -x $(BIN)/python ] || $(PYTHON) -m venv .venv || { rm -rf .venv; echo 'On Debian: apt-get install python3-venv' >&2; exit 1; }
	@echo 'Installing the publisher into .venv (a minute or two)'
	@$(PIP) --editable '.[devcloud]'
	@touch $@

.venv/.development: .venv/.runtime
	@echo 'Installing what the tests need'
	@$(PIP) --editable '.[dev]'
	@touch $@
