"""Rounding weights to a grid: one algorithm a file, one blocked driver."""
