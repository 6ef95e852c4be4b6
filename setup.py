"""Build the optional Cython extension; all metadata is in pyproject.toml."""

from Cython.Build import cythonize
from setuptools import Extension, setup

(extension,) = cythonize(
    Extension(
        "quiplinalg.kernels._tiles",
        ["src/_tiles.pyx"],
        define_macros=[("Py_LIMITED_API", "0x030B0000"), ("CYTHON_LIMITED_API", "1")],
        py_limited_api=True,
    ),
    language_level=3,
)
# Without a C compiler the install goes on, and the factorisations use SciPy.
extension.optional = True  # here because cythonize drops it

setup(
    ext_modules=[extension],
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
