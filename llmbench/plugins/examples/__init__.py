"""Complete plugins to copy, one file per kind: `llmbench plugins new` writes them under another name."""
