# Every target makes .venv by itself where it is missing or older than what it is made from. Needed: Python 3.11 or
# newer with venv and pip; `make PYTHON=python3.12 test` names another one.
PYTHON ?= python3
CONFIG := configs/quickstart.yaml
RUN := .venv/bin/python launch.py
# Whole files go to one process each, so that what a file shares is made once; in their own order, whose end is many
# short ones, so that no process waits long for the last file of another.
PARALLEL := -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

.PHONY: quickstart test test-all check bench bench-training

quickstart: .venv/runtime.stamp
	$(RUN) fetch --config $(CONFIG)
	$(RUN) train --config $(CONFIG)
	$(RUN) evaluate --config $(CONFIG)
	$(RUN) export --config $(CONFIG)

test: .venv/dev.stamp
	.venv/bin/python -m pytest $(PARALLEL)

test-all: .venv/dev.stamp
	.venv/bin/python -m pytest $(PARALLEL) -m ''

check: .venv/dev.stamp
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/pyright
	$(MAKE) test

bench: .venv/bench.stamp
	.venv/bin/python -m benchmarks

# The competitors need other versions of what we use, so that each has an environment of its own.
bench-training: .venv/dev.stamp .venv-trl/stamp .venv-tunix/stamp
	.venv/bin/python -m benchmarks.training --trl_python .venv-trl/bin/python --tunix_python .venv-tunix/bin/python

.venv-%/stamp: benchmarks/training_%.txt
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/pip install --quiet --requirement $<
	touch $@

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo 'Python 3.11 or newer is needed; name one with: make PYTHON=python3.12'; exit 2; }
	$(PYTHON) -m venv .venv

# The quickstart needs no more than the package and the reader of its teacher's file; in particular no torch.
.venv/runtime.stamp: pyproject.toml constraints.txt | .venv/bin/python
	@echo 'Installing the package and what it needs into .venv, about a minute ...'
	.venv/bin/pip install --quiet --constraint constraints.txt --editable '.[gguf]'
	touch $@

.venv/dev.stamp: pyproject.toml constraints.txt | .venv/bin/python
	@echo 'Installing the package and what it needs into .venv, about a minute ...'
	.venv/bin/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@ .venv/runtime.stamp

# TRL and Liger, beside which the losses are measured, need PyTorch and what it needs.
.venv/bench.stamp: .venv/dev.stamp
	.venv/bin/pip install --quiet --constraint constraints.txt --editable '.[bench]'
	touch $@
