"""Cholesky, LDL^T and the library's own H = T D T^T, in the order given or one that it finds."""
