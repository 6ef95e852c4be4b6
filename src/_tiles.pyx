# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
"""The three steps of a blocked Cholesky factorisation, in BLAS and LAPACK calls without the GIL.

The columns of A, (n, n), are contiguous; only its lower triangle is read and written.
"""
from cython cimport floating
from scipy.linalg.cython_blas cimport dgemm, dsyrk, dtrsm, sgemm, ssyrk, strsm
from scipy.linalg.cython_lapack cimport dpotrf, spotrf

cdef enum:
    LEAF = 32  # columns of L that one call of trsm solves with


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
    if m <= 0 or n <= 0:
        return
    with nogil:
        solve(&A[j0, j0], &A[i0, j0], m, n, ld)


cdef void solve(floating* L, floating* B, int m, int n, int ld) noexcept nogil:
    """B = B L^-T, (m, n), by halves of its columns: gemm runs up to twice as fast as trsm."""
    cdef floating one = 1, minus = -1
    cdef int half = (n + 2 * LEAF - 1) // (2 * LEAF) * LEAF, rest = n - half
    cdef Py_ssize_t right = <Py_ssize_t>half * ld
    if n <= LEAF:
        if floating is double:
            dtrsm("R", "L", "T", "N", &m, &n, &one, L, &ld, B, &ld)
        else:
            strsm("R", "L", "T", "N", &m, &n, &one, L, &ld, B, &ld)
        return
    solve(L, B, m, half, ld)
    if floating is double:
        dgemm("N", "T", &m, &rest, &half, &minus, B, &ld, L + half, &ld, &one, B + right, &ld)
    else:
        sgemm("N", "T", &m, &rest, &half, &minus, B, &ld, L + half, &ld, &one, B + right, &ld)
    solve(L + right + half, B + right, m, rest, ld)
