"""Build of the pe_runtime package: CMakeLists.txt describes what is native, pyproject.toml the rest."""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import ExecError

ROOT = Path(__file__).resolve().parent
OPTIONS = (
    "PE_CUDA",
    "PE_CUDA_ARCHITECTURES",
    "PE_TORCH",
    "PE_TORCH_ROOT",
    "PE_ORT",
    "ONNXRUNTIME_INCLUDE_DIR",
)


class CMakeBuild(build_ext):
    """Runs CMake, which installs every native file of the package into the package's folder."""

    def run(self) -> None:
        """Build in place what is installed in place."""
        # setuptools' own builds an editable package elsewhere and copies back the one file it knows of.
        for extension in self.extensions:
            self.build_extension(extension)

    def build_extension(self, ext: Extension) -> None:
        """Configure, build and install, with all libraries beside the one that setuptools knows of."""
        package = Path(self.get_ext_fullpath(ext.name)).resolve().parent
        build = Path(self.build_temp).resolve() / "cmake"
        options = {
            "CMAKE_BUILD_TYPE": "Debug" if self.debug else "Release",
            "CMAKE_INSTALL_PREFIX": package,
            # Named anew each time: those of an earlier build in isolation are gone.
            "CMAKE_MAKE_PROGRAM": _tool("ninja"),
            "Python_EXECUTABLE": sys.executable,
            "pybind11_DIR": self._pybind11(),
            "PE_PYTHON": "ON",
            "PE_TESTS": "OFF",
            "PE_TORCH": "ON",
            "PE_CAPI": "OFF",
            "PE_GATE": "OFF",
            "PE_RELOCATABLE": "OFF" if self.editable_mode else "ON",
            **{name: os.environ[name] for name in OPTIONS if name in os.environ},
        }
        cmake = _tool("cmake")
        definitions = [f"-D{name}={value}" for name, value in options.items()]
        _call(cmake, "-S", ROOT, "-B", build, "-G", "Ninja", *definitions)
        _call(cmake, "--build", build)
        _call(cmake, "--install", build, "--component", "package", *([] if self.debug else ["--strip"]))

    @staticmethod
    def _pybind11() -> str:
        # In a build in isolation it is on this process's path, and a new interpreter's too.
        try:
            import pybind11
        except ImportError:
            raise ExecError("pybind11 is not installed: pip install 'pybind11>=3'") from None
        return pybind11.get_cmake_dir()


def _tool(name: str) -> str:
    # An environment that is used without being activated has its commands nowhere on the path.
    path = os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", os.defpath)])
    found = shutil.which(name, path=path)
    if found is None:
        raise ExecError(f"{name}: command not found; pip install {name}")
    return found


def _call(*command: object) -> None:
    try:
        subprocess.run([str(part) for part in command], check=True)
    except subprocess.CalledProcessError as error:
        raise ExecError(f"CMake ended with status {error.returncode}; its messages are above") from None


setup(
    version=(ROOT / "pe_runtime" / "VERSION").read_text().strip(),
    packages=[*find_packages(include=["pe_runtime", "pe_runtime.*"]), "pe_runtime.exporters"],
    # The graph writers live at the top level of the checkout (`export/`), where they also run as
    # scripts. Installed, they are `pe_runtime.exporters`: a package called `export` would be a trespass.
    package_dir={"pe_runtime.exporters": "export"},
    package_data={"pe_runtime": ["VERSION", "py.typed", "*.pyi"]},
    ext_modules=[Extension("pe_runtime._kernels", sources=[])],
    cmdclass={"build_ext": CMakeBuild},
)
