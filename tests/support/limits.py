"""Limits that only end a hang: far beyond what a machine needs that does much else."""

HANG_S = 900
