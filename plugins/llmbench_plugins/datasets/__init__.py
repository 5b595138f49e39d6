"""Built-in sources of data."""
