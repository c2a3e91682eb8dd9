# Two commands do all the set-up: `make demo` and `make test`. Each makes .venv when it is missing.

PYTHON ?= python3
BIN := .venv/bin
# three workers keep two cores busy while tests wait for servers; a file's tests share a worker, and its servers
PYTEST_ARGS ?= -q -n 3 --dist loadfile --no-loadscope-reorder --cov --cov-report=term:skip-covered --cov-fail-under=95

.PHONY: demo test test-lowest check bench bench-quick bench-guard bench-startup bench-faults same-wire clean

demo: .venv/.demo
	@$(BIN)/python -m demo_app

# with bytecode, also where the caller's shell forbids writing it: each worker would compile all tests and libraries anew
test: .venv/.dev
	@PYTHONDONTWRITEBYTECODE= $(BIN)/pytest $(PYTEST_ARGS)

# with the lowest version of each direct dependency. What tells of them runs, and the file says what is left out; warnings
# are no errors here, since those of libraries of then are none of ours
test-lowest: .venv-lowest/.test
	@grep '^#' tests/lowest.txt
	@.venv-lowest/bin/python -m pytest -q -n 3 --dist loadfile -o filterwarnings=default $$(grep '^tests/' tests/lowest.txt)

check: .venv/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pyright
	$(BIN)/lint-imports

# a virtual environment of its own: the other libraries' plugins shall not load in the tests
bench: bench/.venv/.bench
	@bench/.venv/bin/python -m bench.cost

bench-quick: bench/.venv/.bench
	@bench/.venv/bin/python -m bench.cost --quick

bench-guard: bench/.venv/.bench
	@bench/.venv/bin/python -m bench.guard

# without packages for LLM calls, and with those that Sentry's SDK would import
bench-startup: bench/.venv/.bench bench/.venv-llm/.bench-llm
	@bench/.venv/bin/python -m bench.startup
	@bench/.venv-llm/bin/python -m bench.startup

bench-faults: .venv/.dev
	$(BIN)/python -m bench.faults

# OLD=path of another checkout, with an environment of its own
same-wire: .venv/.dev
	$(BIN)/python tools/same_wire.py check --old $(OLD) --new .

# the stamp is made again when the dependencies change
.venv/.demo: pyproject.toml
	@PYTHON=$(PYTHON) sh tools/venv.sh demo
	@touch $@

.venv/.dev: pyproject.toml
	@PYTHON=$(PYTHON) sh tools/venv.sh dev
	@touch $@ .venv/.demo

bench/.venv/.bench: pyproject.toml
	@PYTHON=$(PYTHON) VENV=bench/.venv sh tools/venv.sh bench
	@touch $@

bench/.venv-llm/.bench-llm: pyproject.toml
	@PYTHON=$(PYTHON) VENV=bench/.venv-llm sh tools/venv.sh bench-llm
	@touch $@

.venv-lowest/.test: pyproject.toml tools/lowest.py
	@$(PYTHON) tools/lowest.py > .venv-lowest.txt
	@PYTHON=$(PYTHON) VENV=.venv-lowest CONSTRAINTS=.venv-lowest.txt sh tools/venv.sh test
	@touch $@

clean:
	rm -rf .venv .venv-lowest .venv-lowest.txt bench/.venv bench/.venv-llm .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage*
