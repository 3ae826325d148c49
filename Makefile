# Everything a newcomer needs: `make demo`, `make test`. Set-up happens once, into .venv (Python 3.10, which Lava needs).
PYTHON310 ?= python3.10
BIN := .venv/bin
STAMP := .venv/.ready
DEMO := runs/demo

.PHONY: demo test test-all lint notebooks docs bench results onchip setup clean

setup: $(STAMP)

# `uv --version` rather than `command -v uv`: a pyenv shim may be there without the program behind it
$(STAMP): pyproject.toml uv.lock
	@if uv --version >/dev/null 2>&1; then \
		echo "setting up .venv with uv"; uv sync --quiet --all-extras; \
	else \
		$(PYTHON310) -c "import sys; sys.exit(sys.version_info[:2] != (3, 10))" 2>/dev/null || { \
			echo "$(PYTHON310) is no Python 3.10, the only one that Lava 0.10 imports on. Install it (pyenv install 3.10,"; \
			echo "apt install python3.10-venv, or uv, which fetches it), or say where it is: make $(MAKECMDGOALS) PYTHON310=/path"; \
			exit 2; }; \
		echo "setting up .venv with $(PYTHON310) and pip, a few minutes (uv would be faster)"; \
		$(PYTHON310) -m venv .venv && \
		$(BIN)/pip install --quiet --upgrade pip "setuptools<81" wheel && \
		$(BIN)/pip install --quiet --editable ".[lava,test,lint,bench,notebooks,tensorboard]"; \
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

bench: $(STAMP)
	$(BIN)/python benchmarks/startup.py
	$(BIN)/python benchmarks/sim.py
	$(BIN)/python benchmarks/learning.py
	$(BIN)/python benchmarks/training.py

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
		$(PYTHON310) -m venv $(DOCS) && $(DOCS)/bin/pip install --quiet --upgrade pip && \
		$(DOCS)/bin/pip install --quiet --group docs; \
	fi
	@touch $@

clean:
	rm -rf build dist *.egg-info runs .pytest_cache .hypothesis .ruff_cache
