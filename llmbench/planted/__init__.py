"""Planted bottlenecks: workloads with a known cause of known size, to test what names causes. See docs/planted.md."""
