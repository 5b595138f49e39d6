"""Text to features: tokenizers and the data of a cell."""
