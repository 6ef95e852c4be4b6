# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
"""The three steps of a blocked Cholesky factorisation, each one BLAS/LAPACK call without the GIL.

The columns of A, (n, n), are contiguous; only its lower triangle is read and written.
"""
from cython cimport floating
from scipy.linalg.cython_blas cimport dgemm, dsyrk, dtrsm, sgemm, ssyrk, strsm
from scipy.linalg.cython_lapack cimport dpotrf, spotrf


cdef inline int leading(floating[:, :] A) noexcept:
    """The elements between the starts of two columns."""
    return <int>(A.strides[1] // <Py_ssize_t>sizeof(floating))


def update_tile(floating[:, :] A, int i0, int i1, int j0, int j1, int k0, int k1):
    """A[i0:i1, j0:j1] -= A[i0:i1, k0:k1] A[j0:j1, k0:k1]^T; the lower half only where i0 == j0."""
    cdef int m = i1 - i0, n = j1 - j0, k = k1 - k0, ld = leading(A)
    cdef floating one = 1, minus = -1
    if m <= 0 or n <= 0 or k <= 0:
        return
    with nogil:
        if floating is double:
            if i0 == j0:
                dsyrk("L", "N", &n, &k, &minus, &A[j0, k0], &ld, &one, &A[j0, j0], &ld)
            else:
                dgemm("N", "T", &m, &n, &k, &minus, &A[i0, k0], &ld, &A[j0, k0], &ld,
                      &one, &A[i0, j0], &ld)
        else:
            if i0 == j0:
                ssyrk("L", "N", &n, &k, &minus, &A[j0, k0], &ld, &one, &A[j0, j0], &ld)
            else:
                sgemm("N", "T", &m, &n, &k, &minus, &A[i0, k0], &ld, &A[j0, k0], &ld,
                      &one, &A[i0, j0], &ld)


def factor_tile(floating[:, :] A, int j0, int j1):
    """A[j0:j1, j0:j1] = L L^T in place; returns 0, or 1 + the row in the tile whose pivot failed."""
    cdef int n = j1 - j0, ld = leading(A), info = 0
    if n <= 0:
        return 0
    with nogil:
        if floating is double:
            dpotrf("L", &n, &A[j0, j0], &ld, &info)
        else:
            spotrf("L", &n, &A[j0, j0], &ld, &info)
    return info


def solve_tile(floating[:, :] A, int i0, int i1, int j0, int j1):
    """A[i0:i1, j0:j1] = A[i0:i1, j0:j1] L^-T with L = A[j0:j1, j0:j1]."""
    cdef int m = i1 - i0, n = j1 - j0, ld = leading(A)
    cdef floating one = 1
    if m <= 0 or n <= 0:
        return
    with nogil:
        if floating is double:
            dtrsm("R", "L", "T", "N", &m, &n, &one, &A[j0, j0], &ld, &A[i0, j0], &ld)
        else:
            strsm("R", "L", "T", "N", &m, &n, &one, &A[j0, j0], &ld, &A[i0, j0], &ld)
