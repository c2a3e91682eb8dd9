# Two commands do all the set-up: `make demo` and `make test`. Each makes .venv when it is missing.

PYTHON ?= python3
BIN := .venv/bin
PYTEST_ARGS ?=

.PHONY: demo test check bench-faults clean

demo: .venv/.demo
	@$(BIN)/python -m demo_app

test: .venv/.dev
	@$(BIN)/coverage erase
	@$(BIN)/coverage run -m pytest $(PYTEST_ARGS)
	@$(BIN)/coverage combine -q
	@$(BIN)/coverage report --fail-under=95 --include='metricx_observe/*' | tail -n 30

check: .venv/.dev
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pyright
	$(BIN)/lint-imports

bench-faults: .venv/.dev
	$(BIN)/python -m bench.faults

# the stamp is made again when the dependencies change
.venv/.demo: pyproject.toml
	@PYTHON=$(PYTHON) sh tools/venv.sh demo
	@touch $@

.venv/.dev: pyproject.toml
	@PYTHON=$(PYTHON) sh tools/venv.sh dev
	@touch $@ .venv/.demo

clean:
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage*
