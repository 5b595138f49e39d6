"""The command line: one file per command. `main` is what `llmbench` calls."""

from __future__ import annotations

from llmbench.cli.app import cli, main

__all__ = ["cli", "main"]
