"""Build the optional Cython extension; all metadata is in pyproject.toml."""

from Cython.Build import cythonize
from setuptools import Extension, setup

# Optional: where no C compiler is found, the install goes on and the factorisations use SciPy.
extension = Extension(
    "quiplinalg.kernels._tiles",
    ["src/_tiles.pyx"],
    define_macros=[("Py_LIMITED_API", "0x030B0000"), ("CYTHON_LIMITED_API", "1")],
    py_limited_api=True,
    optional=True,
)

setup(
    ext_modules=cythonize([extension], language_level=3),
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
