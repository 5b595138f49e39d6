"""The built-in engines: torch (its code is in the worker), and Keras on TensorFlow, torch and JAX."""
