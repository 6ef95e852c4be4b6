"""Benchmarks of quiplinalg: ``python -m bench [topic ...]`` from the root of the repository."""
