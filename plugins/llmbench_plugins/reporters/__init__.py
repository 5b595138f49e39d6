"""The built-in formats of `llmbench report`."""
