"""Built-in precisions."""
