# Everything a newcomer needs: `make demo`, `make test`. Set-up happens once, into .venv, with the newest Python of 3.13, 3.12,
# 3.11 and 3.10 that is here; make PYTHON=/path/to/python3.12 … chooses another.
PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3.10 python3; do \
	"$$p" -c "import ensurepip, sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))" 2>/dev/null && \
	command -v "$$p" && break; done)
BIN := .venv/bin
STAMP := .venv/.ready
DEMO := runs/demo
EXTRAS := lava,test,lint,bench,notebooks,tensorboard
# Lava for Python 3.11 and later is made of Intel's wheels (docs/lava.md)
LAVA := $(shell "$(PYTHON)" -c "import sys; print(*['./packaging/lava-nc', './packaging/lava-dl'] * (sys.version_info >= (3, 11)))" 2>/dev/null)
PIP := PYTHONWARNINGS=ignore $(BIN)/python -m pip --disable-pip-version-check --quiet --quiet

.PHONY: demo test test-all lint notebooks docs bench bench-full results onchip setup clean

setup: $(STAMP)

# `uv --version` rather than `command -v uv`: a pyenv shim may be there without the program behind it
$(STAMP): pyproject.toml uv.lock packaging/lava-nc/pyproject.toml packaging/lava-dl/pyproject.toml
	@"$(PYTHON)" -c "import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))" 2>/dev/null || { \
		echo "no Python 3.10 to 3.13 here$(if $(PYTHON), at $(PYTHON)). Install one (apt install python3-venv, pyenv install 3.13,"; \
		echo "or uv, which fetches it), or say where it is: make $(MAKECMDGOALS) PYTHON=/path/to/python3.13"; \
		exit 2; }
	@if uv --version >/dev/null 2>&1; then \
		echo "setting up .venv with uv and $(PYTHON): PyTorch and Lava, some GB the first time"; \
		uv sync --quiet --all-extras --python "$(PYTHON)"; \
	else \
		echo "setting up .venv with pip and $(PYTHON) (once; PyTorch is some GB)"; \
		"$(PYTHON)" -m venv .venv && \
		echo "  1 of 2: pip and setuptools" && $(PIP) install --upgrade pip "setuptools<81" wheel && \
		echo "  2 of 2: PyTorch, Lava and the rest, some minutes" && $(PIP) install $(LAVA) --editable ".[$(EXTRAS)]"; \
	fi
	@touch $(STAMP)

demo: $(STAMP)
	@$(BIN)/python -m ottt_loihi.cli.demo --output $(DEMO)

test: $(STAMP)
	$(BIN)/python -m pytest -m "not slow" --numprocesses 2 --dist loadgroup $(ARGS)

test-all: $(STAMP)
	$(BIN)/python -m pytest $(ARGS)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# every benchmark in its short form, which shows that it runs; `make bench-full` measures what docs/benchmarks.md shows
BENCHMARKS := startup sim learning training events vgg
SLOW_BENCHMARKS := onchip continual results
bench: $(STAMP)
	@for name in $(filter-out startup,$(BENCHMARKS)) $(SLOW_BENCHMARKS); do \
		echo "benchmarks/$$name.py --short"; $(BIN)/python benchmarks/$$name.py --short || exit 1; done
	$(BIN)/python benchmarks/startup.py

bench-full: $(STAMP)
	@for name in $(BENCHMARKS); do $(BIN)/python benchmarks/$$name.py || exit 1; done

results: $(STAMP)
	$(BIN)/python benchmarks/results.py $(ARGS)

onchip: $(STAMP)
	$(BIN)/python benchmarks/onchip.py $(ARGS)

notebooks: $(STAMP)
	$(BIN)/python -m pytest -m notebook $(ARGS)

# in an environment of its own; the package goes there without what it needs, because nothing of it is imported
DOCS := .venv-docs
docs: $(DOCS)/.ready
	@if uv --version >/dev/null 2>&1; then \
		uv pip install --quiet --python $(DOCS) --no-deps --reinstall .; \
	else \
		$(DOCS)/bin/pip install --quiet --no-deps --force-reinstall .; \
	fi
	$(DOCS)/bin/sphinx-build --quiet --fail-on-warning --keep-going docs build/docs
	@echo "open build/docs/index.html"

$(DOCS)/.ready: pyproject.toml
	@if uv --version >/dev/null 2>&1; then \
		UV_PROJECT_ENVIRONMENT=$(DOCS) uv sync --quiet --only-group docs; \
	else \
		"$(PYTHON)" -m venv $(DOCS) && $(DOCS)/bin/pip install --quiet --upgrade pip && \
		$(DOCS)/bin/pip install --quiet --group docs; \
	fi
	@touch $@

clean:
	rm -rf build dist *.egg-info runs .pytest_cache .hypothesis .ruff_cache
