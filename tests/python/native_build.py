"""The native build that tests use: the one of `make native-test`, brought up to date."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

#: Another folder that CMake has configured, or shall configure.
VARIABLE = "PE_RUNTIME_BUILD"


def tool(name: str) -> str:
    """The path of a command of this environment, which need not be activated, or of the system."""
    path = os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", os.defpath)])
    found = shutil.which(name, path=path)
    if found is None:
        pytest.skip(f"{name}: command not found")
    return found


def run(*command: object) -> None:
    """Run a command; its output is in the error if it fails."""
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout}\n{done.stderr}"


def configure(source: Path, build_folder: Path, *options: str) -> None:
    """Configure a CMake project."""
    generator = ("-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={tool('ninja')}")
    run(tool("cmake"), "-S", source, "-B", build_folder, *generator, *options)


def folder() -> Path:
    """Where the build is."""
    return Path(os.environ.get(VARIABLE, ROOT / "build" / "release"))


def build(*targets: str, needs: str) -> Path:
    """Build targets; the folder. Skips where `needs`, of CMake's cache, says why there are none."""
    path = folder()
    path.mkdir(parents=True, exist_ok=True)
    with (path / ".lock").open("w") as lock:  # tests run in several processes
        fcntl.flock(lock, fcntl.LOCK_EX)
        # Also where the environment that it was made with is gone, and all that was found there.
        if not (path / "build.ninja").exists() or not Path(cached(path, "CMAKE_MAKE_PROGRAM")).exists():
            settings = "-DCMAKE_BUILD_TYPE=Release", f"-DPython_EXECUTABLE={sys.executable}"
            configure(ROOT, path, "--fresh", *settings)
        reason = cached(path, needs)
        if reason:
            pytest.skip(f"not built: {reason}")
        run(tool("cmake"), "--build", path, "--target", *targets)
    return path


def cached(build_folder: Path, variable: str) -> str:
    """A variable of CMake's cache; empty where there is none."""
    for line in (build_folder / "CMakeCache.txt").read_text().splitlines():
        name, _, value = line.partition("=")
        if name.partition(":")[0] == variable:
            return value
    return ""


def onnxruntime_library() -> Path:
    """The library in the wheel of onnxruntime, which a C program can open."""
    onnxruntime = pytest.importorskip("onnxruntime")
    (library,) = (Path(onnxruntime.__file__).parent / "capi").glob("libonnxruntime.so.*")
    return library
