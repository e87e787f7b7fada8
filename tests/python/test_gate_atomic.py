"""The modes of what is written, and what becomes of files that other threads make meanwhile."""

import os
import sys
import threading
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from gate_helpers import run_python

from pe_runtime.atomic import atomic_folder, atomic_path

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="modes are of POSIX")

MODES = """
import os, sys
from pathlib import Path
from pe_runtime.atomic import atomic_folder, atomic_path
os.umask(int(sys.argv[2], 8))
root = Path(sys.argv[1])
with atomic_path(root / "deep" / "file.txt") as path:
    path.write_text("x")
for _ in range(2):  # made, then replaced
    with atomic_folder(root / "folder") as folder:
        (folder / "inner").touch()
for path in ("deep/file.txt", "folder", "folder/inner"):
    print(oct((root / path).stat().st_mode & 0o777))
"""


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002, 0])
def test_modes_are_those_of_the_umask(tmp_path, mask):
    # In a process of its own: the umask is one for all threads of this one.
    done = run_python(MODES, tmp_path, oct(mask)[2:])
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [oct(mode & ~mask) for mode in (0o666, 0o777, 0o666)]


def test_the_umask_is_left_alone(tmp_path, monkeypatch):
    # Not even to read it: for that it is set, and a file that another thread makes then is open to all.
    def touched(mask):
        raise AssertionError(f"umask({mask})")

    monkeypatch.setattr(os, "umask", touched)
    with atomic_path(tmp_path / "file"):
        pass
    with atomic_folder(tmp_path / "folder"):
        pass
    with atomic_folder(tmp_path / "folder"):
        pass


def test_files_that_other_threads_make_meanwhile(tmp_path):
    (tmp_path / "before").touch()
    mode = (tmp_path / "before").stat().st_mode
    stop, found = threading.Event(), set()

    def make():
        while not stop.is_set():
            path = tmp_path / "other"
            path.touch()
            found.add(path.stat().st_mode)
            path.unlink()

    thread = threading.Thread(target=make)
    thread.start()
    try:
        for turn in range(300):
            with atomic_path(tmp_path / f"{turn}.txt"):
                pass
            found.add((tmp_path / f"{turn}.txt").stat().st_mode)
    finally:
        stop.set()
        thread.join()
    assert found == {mode}


def test_names_are_new_and_hidden(tmp_path):
    with atomic_path(tmp_path / "a.png") as first, atomic_path(tmp_path / "a.png") as second:
        assert first != second
        for path in (first, second):
            assert path.parent == tmp_path
            assert path.name.startswith(".a.")
            assert path.suffix == ".png"
            assert path.read_bytes() == b""
