"""Build the native core (csrc/) with CMake and Ninja. The metadata is in pyproject.toml.

``EMBEDTRAIN_CUDA``: ``auto`` (the default) builds the CUDA part where nvcc works and says so where it does not; ``on``
insists on it, ``off`` leaves it out. ``EMBEDTRAIN_SANITIZE=address,undefined`` builds with sanitizers.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
NO_COMPILER = (
    "embedtrain: no C++ compiler was found. Install one (Debian, Ubuntu: apt-get install g++; Fedora: dnf install "
    "gcc-c++), or set CXX to its path, and try again."
)
NO_CUDA = (
    "embedtrain: built without CUDA. To have it, install the CUDA toolkit, put nvcc on PATH (or set CUDACXX to it), "
    "and install embedtrain again."
)


class CMakeBuild(build_ext):
    """Configures and builds csrc/ out of tree, and leaves embedtrain/_native*.so."""

    def build_extension(self, ext: Extension) -> None:
        """Build with CUDA if wanted and possible, else without; explain what is missing."""
        compiler = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
        if not compiler:
            sys.exit(NO_COMPILER)
        compiler = shutil.which(compiler) or compiler
        wanted = os.environ.get("EMBEDTRAIN_CUDA", "auto").lower()
        nvcc = os.environ.get("CUDACXX") or shutil.which("nvcc") or shutil.which("/usr/local/cuda/bin/nvcc")
        if wanted == "on" or (wanted == "auto" and nvcc):
            try:
                self._build(ext, compiler, "on")
                return
            except subprocess.CalledProcessError:
                if wanted == "on":
                    sys.exit("embedtrain: the build with CUDA failed; the reason is above.")
                print("embedtrain: nvcc is here, but the build with CUDA failed (above); trying without.")
        try:
            self._build(ext, compiler, "off")
        except subprocess.CalledProcessError:
            sys.exit("embedtrain: the native build failed; the reason is above.")
        if wanted != "off":
            print(NO_CUDA)

    def _build(self, ext: Extension, compiler: str, cuda: str) -> None:
        import pybind11

        sanitize = os.environ.get("EMBEDTRAIN_SANITIZE", "")
        name = "-".join(["cmake", str(sys.implementation.cache_tag), f"cuda-{cuda}", *sanitize.split(",")]).rstrip("-")
        build = ROOT / "build" / name
        cache = build / "CMakeCache.txt"
        # Each isolated build of pip brings pybind11 and Ninja in a folder of its own: never reuse the last one's, nor
        # what another compiler has built.
        if cache.exists():
            cached = cache.read_text()
            if pybind11.get_cmake_dir() not in cached or f"={compiler}\n" not in cached:
                shutil.rmtree(build)
        settings = {
            "CMAKE_BUILD_TYPE": "Release",
            "CMAKE_CXX_COMPILER": compiler,
            "CMAKE_LIBRARY_OUTPUT_DIRECTORY": Path(self.get_ext_fullpath(ext.name)).resolve().parent,
            "Python_EXECUTABLE": sys.executable,
            "pybind11_DIR": pybind11.get_cmake_dir(),
            "EMBEDTRAIN_VERSION": self.distribution.get_version(),
            "EMBEDTRAIN_CUDA": cuda,
            "EMBEDTRAIN_SANITIZE": sanitize,
        }
        options = [f"-D{name}={value}" for name, value in settings.items()]
        subprocess.run(["cmake", "-S", str(ROOT), "-B", str(build), "-G", "Ninja", *options], check=True)
        subprocess.run(["cmake", "--build", str(build)], check=True)


setup(ext_modules=[Extension("embedtrain._native", sources=[])], cmdclass={"build_ext": CMakeBuild})
