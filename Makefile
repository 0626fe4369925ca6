# Everything that a newcomer needs: `make demo`, `make test`. Python 3.11+ and make are all it takes.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# Two processes of one thread each. A file's tests share one, and the runs that they look at (tests/conftest.py).
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadgroup --no-loadscope-reorder --durations=25

.PHONY: demo gate test test-slow check fix screens teacher clean

demo: $(READY)  ## compress the built-in digits teacher for this machine
	$(BIN)/compress run examples/digits/teacher.pt -o runs/demo --fresh
	$(BIN)/compress verify runs/demo

gate: demo  ## judge the demo's bundle: smaller than the teacher, as accurate, and not slower
	$(BIN)/compress run examples/digits/teacher.pt --profile float -o runs/demo-float --fresh
	$(BIN)/compress gate runs/demo --against runs/demo-float \
	  --max-regression 10% --max-drop 2.0 --max-bytes 200k --junit runs/gate.xml --markdown runs/gate.md

test: $(READY)  ## the test suite, without the slow tests: some minutes
	$(PYTEST) -m "not slow"

test-slow: $(READY)  ## the slow tests too: real teachers, real data
	$(PYTEST)

check: $(READY)  ## style, types, layers, the house's rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python tests/house.py

fix: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

screens: $(READY)  ## the pictures in the README; wants Chromium
	$(BIN)/python docs/screens.py

teacher: $(READY)  ## train the demo's teacher again
	$(BIN)/python examples/digits/train_teacher.py

clean:
	rm -rf $(VENV) build dist runs .mypy_cache .pytest_cache .ruff_cache .import_linter_cache

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt -e ".[dev]"
	touch $@
