"""The built-in precisions: the types of parameters, of autocast and of matmuls."""
