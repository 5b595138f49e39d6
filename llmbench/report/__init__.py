"""One table model, several renderers."""
