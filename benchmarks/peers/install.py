"""Make one environment per peer: `python benchmarks/peers/install.py [--envs .venv-peers]`. Some GB, some minutes."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
TORCH = "torch==2.13.0"  # an open range would bring another build, with all its CUDA libraries
ENVIRONMENTS = ("trainer", "lightning", "optimum", "traceml")
WITH_LLMBENCH = ("trainer", "lightning")  # they train llmbench's modules on llmbench's data


def install(name: str, envs: Path) -> None:
    """Make the environment of one peer."""
    subprocess.run([sys.executable, "-m", "venv", str(envs / name)], check=True)
    pip = [str(envs / name / "bin" / "python"), "-m", "pip", "install", "--quiet"]
    subprocess.run([*pip, TORCH], check=True)
    subprocess.run([*pip, "-r", str(HERE / f"requirements-{name}.txt")], check=True)
    if name in WITH_LLMBENCH:
        subprocess.run([*pip, "--no-deps", "-e", str(ROOT)], check=True)


def main() -> None:
    """Make all that are asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--envs", type=Path, default=ROOT / ".venv-peers", help="where the environments are")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"some of {', '.join(ENVIRONMENTS)}; default all")
    args = parser.parse_args()
    for name in args.names or ENVIRONMENTS:
        if name not in ENVIRONMENTS:
            parser.error(f"unknown environment {name!r}; write one of {', '.join(ENVIRONMENTS)}")
        install(name, args.envs)
        print(f"{name}: installed", file=sys.stderr)


if __name__ == "__main__":
    main()
