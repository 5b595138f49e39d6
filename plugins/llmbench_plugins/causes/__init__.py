"""The built-in causes: what can bound a step, and how each is removed to see."""
