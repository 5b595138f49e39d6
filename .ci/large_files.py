"""Refuse large files: `large_files.py PATH...`. A repository keeps what was once in it, for everybody who clones it.

Runs to publish go in as bundles (`llmbench export RUN --to bundle`), or as assets of a release.
"""

from __future__ import annotations

import sys
from pathlib import Path

LIMIT_KB = 500
#: Runs that are there since before this rule: folder below `results/` -> runs.
OLD_RUNS = {
    "amd-epyc-2-cores": "matrix quick real",
    "amd-epyc-avx2-2-cores": "learning scaling-length",
    "amd-epyc-avx512-2-cores": "keras planted quick remedies scaling-length",
    "intel-xeon-avx512-2-cores": "classics classics-real learning matrix planted quick",
}
ALLOWED = {
    f"results/{machine}/{run}/{name}"
    for machine, runs in OLD_RUNS.items()
    for run in runs.split()
    for name in ("records.jsonl", "cases.jsonl")
}


def too_large(paths: list[str]) -> list[str]:
    """Return a line for each file that is too large and not one of the old runs."""
    sizes = {path: Path(path).stat().st_size / 1000 for path in paths if Path(path).is_file() and path not in ALLOWED}
    return [f"{path}: {size:.0f} KB, more than {LIMIT_KB}" for path, size in sizes.items() if size > LIMIT_KB]


def main() -> None:
    """Exit with what is too large."""
    if found := too_large(sys.argv[1:]):
        sys.exit("\n".join([*found, "publish a run as a bundle (llmbench export RUN --to bundle) or with a release"]))


if __name__ == "__main__":
    main()
