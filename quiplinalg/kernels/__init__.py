"""Backends: records of kernels behind one seam."""
