"""Causes on trial: predicted, removed, measured in pairs."""
