"""The built-in remedies: one file for each kind of change, with the change of a cell and its forecast."""
