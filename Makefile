# Run `make` to see what there is. PYTHON is the Python (3.11 or newer) that .venv is made from.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
JOBS ?= auto
READY := $(VENV)/.ready
MODEL ?= sample_models/digits_cnn.onnx
FEEDS ?= out/feeds.npz
export ORT_DISABLE_TELEMETRY := 1  # for the scripts that use onnxruntime directly; qcompress turns it off itself

.DEFAULT_GOAL := help
.PHONY: help demo test check lint types format bench zoo samples docs clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' Makefile

$(READY): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

demo: $(READY) ## Compress a trained model to int8 and show what it cost (writes out/)
	@mkdir -p out
	$(BIN)/qcompress compress sample_models/digits_cnn.onnx --output out/digits_cnn.int8.onnx \
	  --data sample_models/digits_cnn.calib.npz --eval-data sample_models/digits_cnn.eval.npz \
	  --report out/digits_cnn.json --report out/digits_cnn.md

test: $(READY) ## Run the tests
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal

check: lint types test ## Lint, types and tests

lint: $(READY) ## Find mistakes and unformatted code
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: $(READY) ## Check the types
	$(BIN)/mypy

format: $(READY) ## Format the code
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

bench: $(READY) out/feeds.npz ## Calibration beside plain inference and the stock tool: time and memory (MODEL=, FEEDS=)
	$(BIN)/python tests/bench/calibration.py $(MODEL) --data $(FEEDS) --stock --long

out/feeds.npz: sample_models/digits_cnn.calib.npz $(READY)
	@mkdir -p out
	$(BIN)/python -c "import numpy as np; z = np.load('$<'); np.savez('$@', **{k: z[k][:, None] for k in z.files})"

zoo: $(READY) ## Compress every sample model and show one line each (ZOO= and MODELS=: another collection)
	$(BIN)/python tests/bench/zoo.py $(if $(ZOO),--zoo $(ZOO) --models $(MODELS) --stock,sample_models)

samples: $(READY) ## Print the accuracy of the sample models in float
	$(BIN)/python sample_models/evaluate.py

docs: $(READY) ## Write the generated parts of the README again
	$(BIN)/python tests/update_readme.py

clean: ## Remove what the other targets made
	rm -rf $(VENV) out build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
