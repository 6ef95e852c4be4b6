"""Pruning under a quadratic loss: exact and one-pass, unstructured, N:M, blocks, whole columns."""
