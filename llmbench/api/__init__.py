"""What both front doors do: run, load, diagnose, compare, export, calibrate."""
