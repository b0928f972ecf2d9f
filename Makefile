# Each command sets itself up: all it needs is Python 3.11 or later, a C compiler and a package index.
PYTHON ?= python3
DATA ?= data
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

export GOMP_SPINCOUNT ?= 1000

.PHONY: demo test lint types walls unit shapes cifar10 masks panoptic parity format clean

demo: $(READY)  ## Train a small ResNeSt and its plain twin on real digits, and look at the result
	$(BIN)/python scripts/demo.py

test: lint types walls unit shapes  ## Everything that must hold before a change lands

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)
	$(BIN)/mypy

walls: $(READY)
	$(BIN)/lint-imports --no-logo

unit: $(READY)  ## Two at a time, since each test keeps to one thread; a process that dies ends it
	$(BIN)/pytest --numprocesses 2 --dist loadscope --max-worker-restart 0

shapes: $(READY)  ## The shapes in the signatures, checked while the nets run (in its own process)
	$(BIN)/pytest tests/models/test_shapes.py --jaxtyping-packages=resnestkit.models,resnestkit.ops,beartype.beartype

cifar10: $(READY)  ## The recorded CIFAR-10 result; DATA holds cifar10/train and cifar10/test
	$(BIN)/python scripts/cifar10.py "$(DATA)/cifar10"

masks: $(READY)  ## From end to end: two detectors learn the built-in shapes to a mask AP50 of 0.80
	$(BIN)/python scripts/masks.py

panoptic: $(READY)  ## From end to end: a Panoptic FPN learns the built-in scenes to a panoptic quality of 0.60
	$(BIN)/python scripts/panoptic.py

parity: $(READY)  ## Every net against every library that has it, in float64: docs/results/parity.md
	$(BIN)/python scripts/parity.py

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# uv is only the installer. The constraints name a torch and a torchvision that load together.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "resnestkit needs Python 3.11 or later: make PYTHON=python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --constraint constraints.txt --editable . --group dev
	touch $@

clean:
	rm -rf $(VENV) runs demo
