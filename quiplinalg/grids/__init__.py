"""Uniform grids, the search for their scales, and the packing of codes."""
