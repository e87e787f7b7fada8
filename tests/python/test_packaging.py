"""What a wheel holds, and that files are written whole."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from pe_runtime.atomic import atomic_path

ROOT = Path(__file__).resolve().parents[2]


def test_wheel_holds_every_module_and_the_graph_writers(tmp_path):
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
    assert modules | writers | {"pe_runtime/VERSION", "pe_runtime/py.typed"} <= names
    assert not [name for name in names if name.startswith(("tests/", "bench/", "export/"))]


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
