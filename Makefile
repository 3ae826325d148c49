# Everything a newcomer needs: `make demo`, `make test`. Set-up happens once, into .venv, with the newest Python of 3.13, 3.12,
# 3.11 and 3.10 that is here; make PYTHON=/path/to/python3.12 … chooses another, and makes .venv anew with it.
PYTHONS := 3.13 3.12 3.11 3.10
ifndef PYTHON
PYTHON := $(shell for p in "$$(readlink -f .venv/bin/python)" $(PYTHONS:%=python%) python3; do \
	"$$p" -c "import ensurepip, sys; sys.exit('%d.%d' % sys.version_info[:2] not in '$(PYTHONS)'.split())" 2>/dev/null && \
	command -v "$$p" && break; done)
endif
VERSION := $(shell "$(PYTHON)" -c "import sys; print('%d.%d' % sys.version_info[:2])" 2>/dev/null)
BIN := .venv/bin
STAMP := .venv/.ready-$(VERSION)
DEMO := runs/demo
EXTRAS := lava,test,lint,bench,notebooks,tensorboard
# Lava for Python 3.11 and later is made of Intel's wheels (docs/lava.md)
LAVA := $(if $(filter-out 3.10,$(VERSION)),./packaging/lava-nc ./packaging/lava-dl)
ifdef LAVA_WHEELS
export LAVA_WHEELS := $(abspath $(LAVA_WHEELS))
endif
PIP := PYTHONWARNINGS=ignore $(BIN)/python -m pip --disable-pip-version-check --quiet --quiet --log .venv/pip.log
# pip is silent for minutes: every 15 seconds a line with its log's last word, and then with the package that it unpacks
define ALIVE
(while sleep 15 > /dev/null 2>&1; do \
	at=$$(grep -oE "(Collecting|Processing|Downloading|Building wheel for|Installing) [^ ]+( \([0-9.]+ [kMG]B\))?" .venv/pip.log 2> /dev/null | tail -1); \
	case "$$at" in Installing*) at="Installing $$(ls -t .venv/lib/python*/site-packages | head -1)";; esac; \
	echo "     $$at"; \
done) & trap "kill $$!" EXIT;
endef
# `uv --version` rather than `command -v uv`: a pyenv shim may be there without the program behind it
UV := $(shell uv --version 2>/dev/null)

.PHONY: demo test test-all lint notebooks docs bench bench-full results sensors onchip frameworks frameworks-short peers setup clean

setup: $(STAMP)

$(STAMP): pyproject.toml uv.lock $(wildcard packaging/lava-*/*)
ifeq ($(filter $(VERSION),$(PYTHONS)),)
ifdef PYTHON
	@echo "$(PYTHON) is no Python 3.10 to 3.13: make $(MAKECMDGOALS) PYTHON=/path/to/python3.13"; exit 2
else ifndef UV
	@echo "no Python 3.10 to 3.13 with venv here. Install one (apt install python3-venv, pyenv install 3.13, or uv, which fetches"; \
	echo "it), or say where it is: make $(MAKECMDGOALS) PYTHON=/path/to/python3.13"; exit 2
endif
endif
ifdef UV
	@echo "setting up .venv with $(or $(PYTHON),the Python that uv fetches) and uv: PyTorch and Lava, 6 GB the first time"
	@uv sync --all-extras $(if $(PYTHON),--python "$(PYTHON)")
else
	@echo "setting up .venv with $(PYTHON) and pip, once: some minutes, 6 GB"
	@"$(PYTHON)" -m venv $$([ -e .venv/lib/python$(VERSION) ] || echo --clear) .venv
	@echo "  1 of 2: pip"
	@$(PIP) install --upgrade pip
	@echo "  2 of 2: PyTorch, Lava and the rest"
	@$(ALIVE) $(PIP) install $(LAVA) --editable ".[$(EXTRAS)]"
endif
	@touch .venv/.ready-$$($(BIN)/python -c "import sys; print('%d.%d' % sys.version_info[:2])")

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
BENCHMARKS := startup sim pairs learning training events vgg
SLOW_BENCHMARKS := against onchip continual results sensors peers
SHORT := $(addprefix short-,$(filter-out startup,$(BENCHMARKS)) $(SLOW_BENCHMARKS))
bench: $(SHORT)
	$(BIN)/python benchmarks/startup.py

.PHONY: $(SHORT)
$(SHORT): short-%: $(STAMP)
	$(BIN)/python benchmarks/$*.py --short

bench-full: $(STAMP)
	@for name in $(BENCHMARKS); do $(BIN)/python benchmarks/$$name.py || exit 1; done

results: $(STAMP)
	$(BIN)/python benchmarks/results.py $(ARGS)

sensors: $(STAMP)
	$(BIN)/python benchmarks/sensors.py $(ARGS)

onchip: $(STAMP)
	$(BIN)/python benchmarks/onchip.py $(ARGS)

notebooks: $(STAMP)
	$(BIN)/python -m pytest -m notebook $(ARGS)

# in an environment of its own; the package goes there without what it needs, because nothing of it is imported
DOCS := .venv-docs
docs: $(DOCS)/.ready
ifdef UV
	@uv pip install --quiet --python $(DOCS) --no-deps --reinstall .
else
	@$(DOCS)/bin/pip install --quiet --no-deps --force-reinstall .
endif
	$(DOCS)/bin/sphinx-build --quiet --fail-on-warning --keep-going docs build/docs
	@echo "open build/docs/index.html"

$(DOCS)/.ready: pyproject.toml
ifdef UV
	@UV_PROJECT_ENVIRONMENT=$(DOCS) uv sync --quiet --only-group docs
else
	@"$(PYTHON)" -m venv $(DOCS)
	@$(DOCS)/bin/pip install --quiet --upgrade pip
	@$(DOCS)/bin/pip install --quiet --group docs
endif
	@touch $@

# the frameworks that networks come from, in an environment of their own beside .venv's packages. Without what they would bring:
# never sinabs' or Rockpool's samna, which starts a download when it is imported. Versions: those that were read (docs/frameworks.md)
FRAMEWORKS := .venv-frameworks
FROM := snntorch==1.0.0 spikingjelly==2.0.0 loguru==0.7.3 norse==1.1.0 sinabs==3.1.3 nir==1.0.8 nirtorch==2.6 pbr==7.1.3
# other versions of nir that writers pin, before and with `v_reset`, and the writers of those; each in a folder beside the above
NIRS := 1.0.4 1.0.6
FROM_1.0.4 := nir==1.0.4 nirtorch==1.0 snntorch==0.9.4 spikingjelly==0.0.0.0.14
FROM_1.0.6 := nir==1.0.6
ITSELF := tests/test_frameworks.py -k "itself or each_neuron or writers or users"
frameworks: frameworks-short
	$(FRAMEWORKS)/bin/python -m pytest -p no:cacheprovider tests/test_frameworks.py tests/test_frameworks_vectors.py $(ARGS)
	$(call with_nir,1.0.6)
	$(FRAMEWORKS)/bin/python benchmarks/frameworks.py --short

# the frameworks beside us, and their exporters and importers with the newest nir and the oldest: what CI runs, in half a minute
frameworks-short: $(FRAMEWORKS)/.ready
	$(FRAMEWORKS)/bin/python -m pytest -q -rs -p no:cacheprovider tests/test_nir_writers.py tests/test_frameworks_users.py $(ITSELF)
	$(call with_nir,1.0.4)

with_nir = PYTHONPATH=$(FRAMEWORKS)/nir-$(1) $(FRAMEWORKS)/bin/python -m pytest -q -rs -p no:cacheprovider tests/test_nir_writers.py

# all of them, else each that can be installed; the tests of the others are skipped
INSTALL = $(FRAMEWORKS)/bin/python -m pip --disable-pip-version-check install --quiet --no-deps
define install
@$(INSTALL) $(2) $(1) || for each in $(1); do $(INSTALL) $(2) $$each || echo "$$each cannot be installed here: its tests are skipped"; done

endef
$(FRAMEWORKS)/.ready: $(STAMP) Makefile
	@$(BIN)/python -m venv --clear $(FRAMEWORKS)
	@$(BIN)/python -c "import sysconfig; print('import site; site.addsitedir(%r)' % sysconfig.get_path('purelib'))" \
		> $$($(FRAMEWORKS)/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))")/base.pth
	$(call install,$(FROM))
	$(foreach nir,$(NIRS),$(call install,$(FROM_$(nir)),--target $(FRAMEWORKS)/nir-$(nir)))
	@touch $@

# the toolkits that docs/comparison.md compares with, each in an environment of its own: `torch` borrows .venv's packages as above,
# the others have other NumPy versions. One that cannot be installed here is missing in the tables, and nothing else changes
PEERS := .venv-peers
PEERS_TORCH := snntorch==1.0.0 spikingjelly==2.0.0 norse==1.1.0 nirtorch==2.6 pbr==7.1.3 loguru==0.7.3
PEERS_JAX := braintrace==0.2.8 jax==0.12.0.1 jaxlib==0.12.0.1 brainstate==0.6.0 brainevent==0.3.0 brainunit==0.6.0 braintools==0.4.0
peers: $(STAMP) $(PEERS)/.ready
	$(BIN)/python benchmarks/peers.py $(ARGS)

$(PEERS)/.ready: $(STAMP)
	@echo "setting up $(PEERS), once: snnTorch, SpikingJelly, Norse, BrainTrace, NengoLoihi, Brian2Loihi"
	@for name in torch jax nengo brian; do $(BIN)/python -m venv --clear $(PEERS)/$$name || exit 1; done
	@$(BIN)/python -c "import sysconfig; print('import site; site.addsitedir(%r)' % sysconfig.get_path('purelib'))" \
		> $$($(PEERS)/torch/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))")/base.pth
	@install() { name=$$1; shift; $(PEERS)/$$name/bin/python -m pip --disable-pip-version-check install --quiet --quiet "$$@" \
		|| echo "  not here: $$*"; }; \
	for package in $(PEERS_TORCH); do install torch --no-deps $$package; done; \
	install jax $(PEERS_JAX); install nengo nengo-loihi==1.1.0 nengo==4.1.0; install brian brian2-loihi==0.5.2 brian2==2.11.0
	@touch $@

clean:
	rm -rf build dist *.egg-info runs .pytest_cache .hypothesis .ruff_cache
