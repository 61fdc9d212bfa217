# Every target makes its own environment in .venv first; nothing else needs to be installed but Python and pip.
PYTHON ?= python3

SCRIPTS := $(if $(filter Windows_NT,$(OS)),Scripts,bin)
VENV := .venv
BIN := $(VENV)/$(SCRIPTS)
OLDEST := .venv-oldest
OLDEST_BIN := $(OLDEST)/$(SCRIPTS)
READY := $(VENV)/ready
RECENT := .venv-integrations
NUMPY1 := .venv-integrations-numpy1
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

.PHONY: demo test kernel test-native test-oldest test-integrations test-postgresql test-milvus lint docs bench

demo: kernel
	$(BIN)/pose2id demo
	$(BIN)/pose2id demo --generate --people 5

# A process for each core, each of one thread. Python keeps what it compiles, also where the environment forbids that:
# every process that a test starts would compile the package again, and each of these all tests.
test: export OMP_NUM_THREADS = 1
test: export PYTHONDONTWRITEBYTECODE =
test: kernel
	$(BIN)/python -m pytest --numprocesses auto --dist worksteal

# The native engine, if it is not up to date. Where nothing compiles it says so, and everything else works.
kernel: $(READY)
	@$(BIN)/python hatch_build.py || true

# The native engine under the sanitizers of GCC. Their library comes first in LD_PRELOAD and watches all of Python;
# libstdc++ stands beside it, or exceptions of torch find no way. Leaks are not looked for: Python keeps what it made.
SANITIZED = folder=$$(mktemp -d) && trap 'rm -rf "$$folder"' EXIT && \
	CXX='$(CXX)' $(BIN)/python hatch_build.py "$$folder/kernel.so" -O1 -g -fno-omit-frame-pointer $(1) && \
	POSE2ID_KERNEL="$$folder/kernel.so" \
	LD_PRELOAD="$$($(CXX) -print-file-name=$(2).so) $$($(CXX) -print-file-name=libstdc++.so)" \
	$(BIN)/python -m pytest --capture=no tests/test_native.py $(wildcard tests/native)
test-native: export OMP_NUM_THREADS = 1
test-native: export ASAN_OPTIONS = detect_leaks=0
test-native: export UBSAN_OPTIONS = halt_on_error=1:print_stacktrace=1
test-native: export TSAN_OPTIONS = halt_on_error=1
test-native: $(READY)
	$(call SANITIZED,-fsanitize=address -fsanitize=undefined,libasan)
	$(call SANITIZED,-fsanitize=thread,libtsan)

# The quick tests with the oldest versions that pyproject.toml allows; those have wheels for Python 3.11. torch comes from
# its own index, for the CPU; `make test-oldest TORCH=` takes the one on PyPI, which brings gigabytes of CUDA on Linux.
# Old packages use names that the newest of what they need calls deprecated: those warnings are no errors here.
TORCH ?= --torch-backend cpu
test-oldest: export OMP_NUM_THREADS = 1
test-oldest:
	$(PYTHON) -m venv $(OLDEST)
	$(OLDEST_BIN)/python -m pip --disable-pip-version-check --quiet install uv
	$(OLDEST_BIN)/python -m uv --quiet pip install --python $(OLDEST) --resolution lowest-direct $(TORCH) \
		--only-binary :all: --no-binary pose2id --editable '.[completion,dask,faiss-cpu,gallery,ipg,plots,poses,postgresql,report]' --group test
	$(OLDEST_BIN)/python -m pytest --numprocesses auto --dist worksteal -m 'not slow' -W default::DeprecationWarning

# The adapters with the frameworks themselves, in the versions that pyproject.toml names. Those that no registry has are read
# from the folder that POSE2ID_FRAMEWORKS names; without it their tests are skipped and say what to clone.
test-integrations: export OMP_NUM_THREADS = 1
test-integrations: $(RECENT)/ready $(NUMPY1)/ready
	$(RECENT)/$(SCRIPTS)/python -m pytest -rs tests/integrations --ignore tests/integrations/test_oml.py
	$(NUMPY1)/$(SCRIPTS)/python -m pytest -rs tests/integrations/test_oml.py

$(RECENT)/ready: GROUP := integrations
$(RECENT)/ready: ALONE := integrations-alone
$(NUMPY1)/ready: GROUP := integrations-numpy1
$(RECENT)/ready $(NUMPY1)/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(@D)
	$(@D)/$(SCRIPTS)/python -m pip --disable-pip-version-check --quiet install --upgrade 'pip>=25.1'
	$(@D)/$(SCRIPTS)/python -m pip --disable-pip-version-check --quiet install --constraint constraints.txt \
		--editable . --group $(GROUP)
	$(if $(ALONE),$(@D)/$(SCRIPTS)/python -m pip --disable-pip-version-check --quiet install --no-deps --group $(ALONE))
	@touch $@

# Galleries in a real PostgreSQL server, which the package pgserver brings; elsewhere these tests are skipped. Once it is
# there, `make test` runs them too. As root the server runs as a user of its own, which pgserver makes, and for whom it
# opens the folders above .venv: where one is closed to others the tests are skipped, but not where CI is set.
test-postgresql: export OMP_NUM_THREADS = 1
test-postgresql: $(READY)
	$(PIP) install --constraint constraints.txt --group postgresql
	$(BIN)/python -m pytest --numprocesses auto --dist worksteal -rs -m postgresql \
		tests/test_gallery*.py tests/test_publishing.py

# milvus-lite with the client of Milvus, 90 MB to fetch.
test-milvus: export OMP_NUM_THREADS = 1
test-milvus: $(READY)
	$(PIP) install --constraint constraints.txt --group milvus
	$(BIN)/python -m pytest -m milvus tests/test_publishing.py

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(READY)
	$(BIN)/python -m sphinx --quiet --fail-on-warning --keep-going docs docs/_build/html
	@echo "docs: docs/_build/html/index.html"

bench: kernel
	$(BIN)/python -m pytest benchmarks

# The stamp is written last, so an interrupted installation is taken up again. pip is renewed because
# dependency groups need 25.1; the constraints keep every machine on the same torch.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; v >= (3, 11) or sys.exit("pose2id needs Python 3.11 or newer, and $(PYTHON) is %d.%d; name another: make PYTHON=python3.12" % v)'
	@echo "installing into $(VENV) ..."
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) install --upgrade 'pip>=25.1'
	@$(PIP) install --constraint constraints.txt --editable '.[completion,dask,faiss-cpu,gallery,ipg,plots,poses,postgresql,report]' --group dev
	@touch $@
