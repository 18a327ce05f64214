"""Builds the Cython kernels of ``ext/``; without a compiler the package installs and runs, slower.

``CODESIGN_BOUNDSCHECK=1`` compiles bounds checks in; ``CODESIGN_EXT=ext/dram/*.pyx`` builds only those.
"""

import os
import sys
from glob import glob

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext


class OptionalBuildExt(build_ext):
    """Builds each extension, or says that it could not and goes on: every kernel has a plain twin."""

    def run(self):
        try:
            super().run()
        except Exception as error:  # no compiler at all
            self._warn("the extensions", error)

    def build_extension(self, ext):
        try:
            super().build_extension(ext)
        except Exception as error:
            self._warn(ext.name, error)

    @staticmethod
    def _warn(what, error):
        if os.environ.get("CODESIGN_REQUIRE_EXT"):
            raise error
        print(
            f"warning: {what} could not be compiled ({error}); codesign will run with its plain"
            " reference kernels, which are much slower",
            file=sys.stderr,
        )


def extensions():
    try:
        import numpy
        from Cython.Build import cythonize
    except ImportError:
        return []
    checks = bool(os.environ.get("CODESIGN_BOUNDSCHECK"))
    sources = sorted(glob(os.environ.get("CODESIGN_EXT", "ext/**/*.pyx"), recursive=True))
    modules = [
        Extension(
            source[: -len(".pyx")].replace(os.sep, "."),
            [source],
            include_dirs=[numpy.get_include()],
            define_macros=[("NPY_NO_DEPRECATED_API", "NPY_1_7_API_VERSION")],
            # no contraction: a compiled kernel gives the same bits as its reference
            extra_compile_args=["-O3", "-ffp-contract=off"],
        )
        for source in sources
    ]
    directives = {
        "language_level": 3,
        "boundscheck": checks,
        "wraparound": False,
        "cdivision": True,
        "initializedcheck": checks,
    }
    return cythonize(modules, compiler_directives=directives, quiet=True) if modules else []


setup(ext_modules=extensions(), cmdclass={"build_ext": OptionalBuildExt})
