# Each target installs everything that it needs; the second time this takes no time. Needs Python 3.11 or newer with venv.
PYTHON ?= python3
BIN := .venv/bin
PYLATE_BIN := .venv-pylate/bin
VERSIONS := setup.py constraints.txt constraints-pylate.txt

.PHONY: help venv demo demo-train test soak lint format docs generate clean

help:
	@echo "make demo        index this machine's Python code, search it, compare with BM25 (5 minutes)"
	@echo "make demo-train  the same with a model that is trained on that code first (10 minutes at most)"
	@echo "make test        run the tests, those that compare with PyLate, and the kernels with the oldest Triton"
	@echo "make soak        thousands of trials with damaged and hostile files; SOAK='--seed 7' repeats a run"
	@echo "make lint        check format, style and types; changes nothing"
	@echo "make format      format the code and correct what ruff can correct"
	@echo "make docs        build the documentation's site in site/; fails on a broken link"
	@echo "make generate    write the pictures, tables and settings in docs/ again, from code and results"
	@echo "make clean       remove the environments and what demo, tests and builds left behind"

venv: .venv/installed

demo: .venv/installed-demo
	$(BIN)/colbertz demo

demo-train: .venv/installed-demo
	$(BIN)/colbertz demo --train

test: .venv/installed .venv-pylate/installed
	$(BIN)/pytest -m "not pylate"
	$(PYLATE_BIN)/pytest -m pylate tests/parity
ifeq ($(shell uname -s),Linux) # Triton exists for Linux only
	$(PYLATE_BIN)/pytest -m "not slow" $(wildcard tests/*/*_triton.py tests/*/*/*_triton.py) tests/index/search/test_gpu.py
	$(PYLATE_BIN)/pytest tests/kernels/test_compilation.py -k sm_90
endif

# Trials of each format; prints those that end badly, and a table.
soak: .venv/installed
	PYTHONPATH=tests RUST_BACKTRACE=0 TOKENIZERS_PARALLELISM=false $(BIN)/python tests/campaigns/soak.py $(SOAK)

lint: .venv/installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy -p colbertz

format: .venv/installed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: .venv/installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# The tests compare these files with what the scripts write.
generate: .venv/installed
	$(BIN)/python tools/generate_settings.py
	$(BIN)/python tools/generate_recipe.py
	$(BIN)/python tools/generate_recall.py
	$(BIN)/python tools/draw_kernels.py
	$(BIN)/python tools/draw_results.py

clean:
	rm -rf .venv .venv-pylate build site demo-* runs .cache .mypy_cache .pytest_cache .ruff_cache .hypothesis

.venv/installed: $(VERSIONS)
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet -c constraints.txt -e ".[dev]"
	@touch $@

# What the demo needs: a part of the developers' environment, which is installed sooner.
.venv/installed-demo: $(VERSIONS)
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet -c constraints.txt -e ".[demo]"
	@touch $@

.venv-pylate/installed: $(VERSIONS)
	$(PYTHON) -m venv .venv-pylate
	$(PYLATE_BIN)/pip install --quiet -c constraints.txt torch setuptools
	$(PYLATE_BIN)/pip install --quiet --no-deps -r constraints-pylate.txt
	$(PYLATE_BIN)/pip install --quiet --no-deps -e .
	@touch $@
