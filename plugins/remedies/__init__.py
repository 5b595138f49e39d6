"""Built-in remedies."""
