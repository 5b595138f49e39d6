"""The built-in tasks: for each, its features, its answers, its metrics and its baselines."""
