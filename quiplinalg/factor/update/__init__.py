"""Updates of what is known already: inverses, Cholesky and LDL^T factors, in O(n^2) a vector."""
