"""The worker: the only code that imports torch, transformers and evaluate. A cell comes in, a record goes out."""
