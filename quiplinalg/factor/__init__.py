"""Factorisations without pivoting: Cholesky, LDL^T and the library's own H = T D T^T."""
