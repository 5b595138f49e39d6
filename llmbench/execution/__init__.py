"""Executors run jobs in isolation and turn whatever happens into records."""
