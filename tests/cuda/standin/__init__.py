"""A stand-in for CUDA and CuPy: kernels compiled by g++, arrays in host memory."""
