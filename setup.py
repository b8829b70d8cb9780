"""Build the native core (csrc/) with CMake and Ninja.

The metadata is in pyproject.toml. Set ``EMBEDTRAIN_CUDA=off`` to leave CUDA out, ``=on`` to insist on it; the default,
``auto``, builds the CUDA kernels where nvcc works and says so where it does not. ``EMBEDTRAIN_SANITIZE=address,undefined``
builds with sanitizers.
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


class CMakeBuild(build_ext):
    """Configure and build csrc/ out of tree, and leave embedtrain/_native*.so."""

    def build_extension(self, ext: Extension) -> None:
        """Run CMake; explain what to do if there is no compiler."""
        import pybind11

        compiler = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
        if not compiler:
            sys.exit(
                "embedtrain: no C++ compiler was found. Install one (Debian/Ubuntu: apt-get install g++; "
                "Fedora: dnf install gcc-c++), or set CXX to its path, and try again."
            )
        target = Path(self.get_ext_fullpath(ext.name)).resolve()
        cuda = os.environ.get("EMBEDTRAIN_CUDA", "auto").lower()
        sanitize = os.environ.get("EMBEDTRAIN_SANITIZE", "")
        configure = [
            "cmake",
            "-S",
            str(ROOT),
            "-G",
            "Ninja",
            "-DCMAKE_BUILD_TYPE=Release",
            f"-DCMAKE_CXX_COMPILER={compiler}",
            f"-DCMAKE_LIBRARY_OUTPUT_DIRECTORY={target.parent}",
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
            f"-DEMBEDTRAIN_VERSION={self.distribution.get_version()}",
            f"-DEMBEDTRAIN_SANITIZE={sanitize}",
        ]
        tag = f"{sys.implementation.cache_tag}{'-' + sanitize.replace(',', '-') if sanitize else ''}"
        for attempt in ("on", "off") if cuda == "auto" and self._find_nvcc() else (cuda if cuda == "on" else "off",):
            build = ROOT / "build" / f"cmake-{tag}-cuda-{attempt}"
            # An isolated build sees another pybind11 and another ninja each time: never reuse what they configured.
            if (build / "CMakeCache.txt").exists() and pybind11.get_cmake_dir() not in (build / "CMakeCache.txt").read_text():
                shutil.rmtree(build)
            try:
                subprocess.run([*configure, "-B", str(build), f"-DEMBEDTRAIN_CUDA={attempt}"], check=True)
                subprocess.run(["cmake", "--build", str(build)], check=True)
            except subprocess.CalledProcessError as error:
                if attempt == "on" and cuda == "auto":
                    print("embedtrain: nvcc is here, but the build with CUDA failed (above); building for the CPU only.")
                    continue
                sys.exit(f"embedtrain: the native build failed (exit code {error.returncode}); the reason is above.")
            break
        if attempt == "off":
            print(
                "embedtrain: built without CUDA. To train on a GPU, install the CUDA toolkit (nvcc on PATH, or CUDACXX "
                "set to it) and install embedtrain again."
            )

    @staticmethod
    def _find_nvcc() -> str | None:
        return os.environ.get("CUDACXX") or shutil.which("nvcc") or shutil.which("/usr/local/cuda/bin/nvcc")


setup(ext_modules=[Extension("embedtrain._native", sources=[])], cmdclass={"build_ext": CMakeBuild})
