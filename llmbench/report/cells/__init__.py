"""The summary of a cell, from its records."""
