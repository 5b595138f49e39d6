"""The engine of torch: steps, trials, traces, memory."""
