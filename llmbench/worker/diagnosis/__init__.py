"""The bottleneck of a step of one's own."""
