PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo docs report test quick numerical faults clean

demo: .venv/installed
	rm -rf runs/quick
	$(BIN)/fedmi run quick --out runs/quick
	@echo 'Next: source .venv/bin/activate, then fedmi report runs/quick; docs/tutorial.md goes on from there.'

# One HTML file of the stored results: claims, figures, circuits.
report: .venv/installed
	$(BIN)/fedmi report experiments/results --out runs/report.html

# The site, in build/docs; a warning is an error.
docs: .venv/docs-installed
	JAX_PLATFORMS=cpu $(BIN)/python -m sphinx --fail-on-warning --keep-going --quiet docs build/docs

test: .venv/test-installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/python -m pytest

# The daily check: what finds most in a second (tests/quick.py).
quick: .venv/test-installed
	$(BIN)/python -m pytest -m "not slow and not thorough"

# What must hold to the last bit or nearly, on a processor without AVX-512, compiled as a user's programs are.
NUMERICAL = local ops sparse_ops sparse_layer sparse_training pruning gates model discovery evaluation simulation
numerical: .venv/test-installed
	XLA_FLAGS="--xla_cpu_max_isa=AVX2 --xla_backend_optimization_level=3" \
	$(BIN)/python -m pytest $(NUMERICAL:%=tests/test_%.py)

faults: .venv/test-installed
	$(BIN)/python -m tests.faults

.venv/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv

.venv/installed: .venv/bin/python setup.cfg
	@echo 'Installing JAX and what else is needed into .venv: a minute or two, 1.2 GB'
	$(BIN)/pip install --quiet --disable-pip-version-check -e .
	touch $@

.venv/test-installed: .venv/bin/python setup.cfg
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[test]'
	touch $@

.venv/docs-installed: .venv/bin/python setup.cfg
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[docs]'
	touch $@

clean:
	rm -rf .venv .pytest_cache build dist *.egg-info
