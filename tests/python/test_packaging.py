"""What a wheel and a source archive hold, how the native build fails, and that files are written whole."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

from pe_runtime.atomic import atomic_path

ROOT = Path(__file__).resolve().parents[2]
SUFFIX = sysconfig.get_config_var("EXT_SUFFIX")
# Where scripts/make_environment.sh puts them.
HEADERS = Path(sys.prefix, "include", "onnxruntime")


def run_cmake(*arguments):
    cmake = shutil.which("cmake", path=sysconfig.get_path("scripts")) or "cmake"
    return subprocess.run([cmake, *map(str, arguments)], capture_output=True, text=True, check=False)


@pytest.mark.long
def test_wheel_holds_every_module_the_native_files_and_the_graph_writers(tmp_path):
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "wheel",
            "--quiet",
            "--no-deps",
            "--no-build-isolation",
            ROOT,
            "-w",
            tmp_path,
        ],
        check=True,
        cwd=tmp_path,
    )
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "pe_runtime").rglob("*.py")}
    writers = {f"pe_runtime/exporters/{path.name}" for path in (ROOT / "export").glob("*.py")}
    data = {"VERSION", "py.typed", "_kernels.pyi", "libpe_runtime_torch.so", f"_kernels{SUFFIX}"}
    if HEADERS.is_dir():
        data.add("libpe_runtime_ort.so")
    if shutil.which("nvcc") and os.environ.get("PE_CUDA", "AUTO") != "OFF":
        data.add("libpe_runtime_torch_cuda.so")
    assert modules | writers | {f"pe_runtime/{name}" for name in data} <= names
    foreign = ("tests/", "bench/", "export/", "csrc/", "cmake/", "include/", "lib/")
    assert not [name for name in names if name.startswith(foreign)]

    library = zipfile.ZipFile(wheel).read("pe_runtime/libpe_runtime_torch.so")
    assert b"\0$ORIGIN/../torch/lib\0" in library
    assert str(ROOT).encode() not in library


def test_source_archive_holds_all_that_a_build_needs(tmp_path):
    script = "import sys, setuptools.build_meta as m; m.build_sdist(sys.argv[1])"
    subprocess.run([sys.executable, "-c", script, tmp_path], check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        names = {name.split("/", 1)[1] for name in tar.getnames() if "/" in name}
    native = {path for folder in ("csrc", "cmake", "tests/cpp") for path in (ROOT / folder).rglob("*.*")}
    expected = {path.relative_to(ROOT).as_posix() for path in native if path.is_file()}
    assert len(expected) > 20
    assert expected | {"CMakeLists.txt", "CMakePresets.json"} <= names


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("PE_TORCH_ROOT=/nonexistent", "/nonexistent: expected the folder of torch 2.11 or newer"),
        ("PE_TORCH=MAYBE", "PE_TORCH: expected AUTO, ON or OFF, got MAYBE"),
        ("PE_CUDA=8", "PE_CUDA: expected AUTO, ON or OFF, got 8"),
        ("PE_ORT=YES", "PE_ORT: expected AUTO, ON or OFF, got YES"),
    ],
)
def test_native_build_says_what_is_missing(tmp_path, option, message):
    result = run_cmake("-S", ROOT, "-B", tmp_path, "-D", "PE_TORCH=ON", "-D", option)
    assert result.returncode != 0
    # CMake breaks lines where it likes.
    assert message in re.sub(r"\s+", " ", result.stderr)


def test_library_of_onnx_runtime_needs_headers_that_are_there_and_not_old(tmp_path):
    options = ("-D", "PE_TORCH=OFF", "-D", "PE_ORT=ON", "-D", f"ONNXRUNTIME_INCLUDE_DIR={tmp_path}")
    result = run_cmake("-S", ROOT, "-B", tmp_path / "build", *options)
    assert result.returncode != 0
    assert f"{tmp_path}: expected a folder with onnxruntime_c_api.h" in re.sub(r"\s+", " ", result.stderr)
    (tmp_path / "onnxruntime_c_api.h").write_text("#define ORT_API_VERSION 17\n")
    result = run_cmake("-S", ROOT, "-B", tmp_path / "build", *options)
    assert result.returncode != 0
    assert "expected headers of ONNX Runtime 1.18 or newer, got those of 1.17" in re.sub(
        r"\s+", " ", result.stderr
    )


def test_atomic_path_replaces_only_on_success(tmp_path):
    path = tmp_path / "deep" / "file.txt"
    with atomic_path(path) as temporary:
        temporary.write_text("new")
        assert not path.exists()
    assert path.read_text() == "new"

    def interrupted():
        with atomic_path(path) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_text() == "new"
    assert [p.name for p in path.parent.iterdir()] == ["file.txt"]


def test_written_files_have_ordinary_permissions(tmp_path):
    plain, atomic = tmp_path / "plain", tmp_path / "atomic"
    plain.touch()
    with atomic_path(atomic):
        pass
    assert atomic.stat().st_mode == plain.stat().st_mode
