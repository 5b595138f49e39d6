"""Runs on disk: the run directory, reading, bundles."""
