"""The shipped suites: data only."""
