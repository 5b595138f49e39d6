"""The built-in plugins of llmbench. They use only its public names."""
