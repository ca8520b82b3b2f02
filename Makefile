# `make` lists what can be done. Each target first sets up .venv if need be, and installs again only when pyproject.toml or
# constraints.txt has changed. Only .venv (test-oldest: .venv-oldest) is written to: no other Python on the machine is touched.

PYTHON      ?= python3
VENV        := .venv
CONSTRAINTS ?= constraints.txt
OLDEST      ?= constraints-oldest.txt
JOBS        ?= 2
ARGS        ?=
SCREENSHOTS ?= build/screenshots

BIN     := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --disable-pip-version-check $(if $(CONSTRAINTS),-c $(CONSTRAINTS)) -e

# It is made anew if it is incomplete, if its Python has gone, or if it was made elsewhere: it can't be moved.
STALE := $(shell test -x $(BIN)/python && test "$$(cat $(VENV)/made 2>/dev/null)" = "$$(pwd -P)" || echo stale)

# Each code cell of each notebook is a test: it runs, and gives what is stored to the letter (see notebooks/conftest.py).
NBVAL   := --nbval --nbval-current-env --nbval-sanitize-with=notebooks/sanitize.cfg --nbval-cell-timeout=600
QUICK   := not slow and not gpu and not soak and not browser

# One recipe at a time, even under `make -j`: two installs into one .venv would collide, and the tests have workers of their own.
.NOTPARALLEL:
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
.PHONY: help run lab test test-core test-oldest test-slow fuzz test-browser gpu-test lint notebooks assignments figures models bench soak clean stale
unexport PYTHONPATH PYTHONHOME

help: ## list these targets
	@echo 'usage: make TARGET [PYTHON=python3.12] [ARGS="more options for the command"]'
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile

run: $(VENV)/core ## see the memory at work: `infmem demo`
	@$(BIN)/infmem demo $(ARGS)

lab: $(VENV)/dev ## open the notebooks in JupyterLab
	@$(BIN)/python -m jupyterlab --LabApp.default_url=/lab/tree/notebooks $(ARGS)

# One thread per worker: PyTorch would start one per core in each of them. A file's tests stay on one worker, so that what
# they share is made once, and a notebook's cells run in order. The folder of the notebooks is searched, so none is forgotten.
test: lint ## lint, then every test that is quick and needs no GPU, then every cell of every notebook
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests infmem README.md notebooks $(NBVAL) \
		-n $(JOBS) --dist loadfile --durations=10 -m '$(QUICK)' $(ARGS)

test-core: $(VENV)/dev ## the quick tests alone, without lint and notebooks
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests infmem README.md -n $(JOBS) --dist loadfile --durations=10 -m '$(QUICK)' $(ARGS)

test-oldest: ## the quick tests with the oldest versions of everything that pyproject.toml allows, in .venv-oldest
	@$(MAKE) --no-print-directory VENV=.venv-oldest CONSTRAINTS=$(OLDEST) test-core

test-slow: $(VENV)/dev ## the tests that take more than a few seconds each
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --durations=10 -m 'slow and not gpu and not soak' $(ARGS)

fuzz: $(VENV)/dev ## hostile files and tensors, and every other test over drawn examples, with a thousand new ones each
	@OMP_NUM_THREADS=1 HYPOTHESIS_PROFILE=fuzz $(BIN)/python -m pytest -n $(JOBS) --durations=10 -m hypothesis $(ARGS)

test-browser: $(VENV)/dev ## the notebooks in JupyterLab in a real browser: every explorer is moved, timed and photographed
	@OMP_NUM_THREADS=1 SCREENSHOTS=$(SCREENSHOTS) $(BIN)/python -m pytest tests/browser -m browser $(ARGS)

gpu-test: $(VENV)/dev ## the tests that need a CUDA device
	@$(BIN)/python -m pytest -m 'gpu and not soak' $(ARGS)

lint: $(VENV)/dev ## check the style with ruff
	@$(BIN)/python -m ruff check

notebooks: $(VENV)/dev ## run every notebook again and store what it gives
	@OMP_NUM_THREADS=1 $(BIN)/python notebooks/execute.py --workers $(JOBS) $(ARGS)

assignments: $(VENV)/dev ## make the exercises that students get, without solutions: build/course/release
	@$(BIN)/python notebooks/exercises/assignments.py $(ARGS)

figures: $(VENV)/core ## draw the README's figures, and write its tables of speed, from their recorded numbers
	@$(BIN)/python figures/build.py

models: $(VENV)/core ## train the models that the notebooks load: about six hours on two cores, minutes on a GPU
	@$(BIN)/python figures/train.py $(ARGS)

bench: $(VENV)/core ## time training steps, reads, full attention and a stream, and record them: needs a CUDA device
	@for what in train read attention stream; do \
		$(BIN)/infmem bench $$what --device cuda --output figures/data/bench_$$what.json $(ARGS) || exit 1; done

soak: $(VENV)/core ## read millions of tokens with every model, and see that nothing grows, drifts or breaks: most of an hour on a CPU
	@OMP_NUM_THREADS=$(JOBS) $(BIN)/infmem bench soak --output 'figures/data/soak_{device}.json' $(ARGS)

clean: ## delete .venv, runs/ and every cache
	rm -rf .venv .venv-oldest runs build dist .pytest_cache .ruff_cache .hypothesis
	@find . -name .git -prune -o -type d '(' -name __pycache__ -o -name .ipynb_checkpoints ')' -prune -exec rm -rf '{}' +

# An empty environment. Whatever goes wrong is told in one sentence, and nothing is left behind.
$(VENV)/made: $(STALE)
	@version=$$("$(PYTHON)" -c 'import platform; print("Python " + platform.python_version())' 2>/dev/null) || version='not a working Python'; \
	"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo "infmem needs Python 3.11 or newer, but \"$(PYTHON)\" is $$version: install a newer one and name it, as in \"make test PYTHON=python3.12\"." >&2; exit 1; }; \
	"$(PYTHON)" -c 'import venv, ensurepip' 2>/dev/null || { \
		echo "\"$(PYTHON)\" ($$version) lacks the venv module: install it (on Debian and Ubuntu the package python3-venv) or name another Python, as in \"make test PYTHON=python3.12\"." >&2; exit 1; }; \
	said=$$("$(PYTHON)" -m venv --clear $(VENV) 2>&1) || { \
		rm -rf $(VENV); echo "\"$(PYTHON)\" ($$version) could not make $(VENV): $$(echo "$$said" | tail -n 1)" >&2; exit 1; }
	@pwd -P > $@

# What the library needs, then what the notebooks and the tests need besides.
$(VENV)/core: $(VENV)/made pyproject.toml $(CONSTRAINTS)
	@echo 'Installing infmem into $(VENV): a few minutes the first time.'
	@$(INSTALL) .
	@touch $@

$(VENV)/dev: $(VENV)/made pyproject.toml $(CONSTRAINTS)
	@echo 'Installing infmem, JupyterLab and the test tools into $(VENV): a few minutes the first time.'
	@$(INSTALL) '.[dev]'
	@touch $(VENV)/core $@
