# What a developer does. `just` lists it; `just check` is all that must pass before a change goes in.

python := ".venv/bin/python"

_default:
    @just --list --unsorted

# Make the environment of the README's test command.
setup:
    python3 -m venv .venv
    .venv/bin/pip install -q -c constraints.txt torch==2.13.0 -e '.[dev]'

# Run the default tests; `just test tests/suite/test_plan.py -k axis` runs some.
test *args:
    {{python}} -m pytest -n 2 {{args}}

# Run the slow tests, without the benchmarks.
slow *args:
    {{python}} -m pytest -n 2 -m slow --ignore benchmarks {{args}}

# Check style, format, generated pages and the size of files.
lint:
    .venv/bin/ruff check .
    .venv/bin/ruff format --check .
    {{python}} docs/generate.py --check
    git ls-files -z | xargs -0 {{python}} .ci/large_files.py

# Correct style and format where that is safe.
fix:
    .venv/bin/ruff check --fix .
    .venv/bin/ruff format .

# Check types.
types:
    .venv/bin/mypy

# Build the site in docs/_build; a warning is an error.
docs:
    {{python}} -m sphinx -W --keep-going -n -q docs docs/_build

# Write the pages and schemas that are made from the code.
generate:
    {{python}} docs/generate.py

# Build the distribution from what is committed, in dist/, and check it.
build:
    bash .ci/run --out . build

# Try what is committed without the optional packages, in an environment of its own.
bare:
    bash .ci/run bare

# Run all that must pass.
check: lint types docs test slow
