"""The CUDA backend: kernels in .cu files, compiled by NVRTC when first used, and their slots."""
