"""Files and folders that are either whole or not there."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary path beside `path`; on success rename it to `path`, on error remove it.

    The file has the mode of any file that the process makes: 0666 less its umask.

    Args:
        path: the file to be written. Missing parent folders are made.

    Yields:
        A path in the same folder, with the same suffix, of an empty file.

    Raises:
        OSError: the folder cannot be made or written to.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = _make_beside(target, target.stem, target.suffix, _make_file)
    try:
        yield temporary
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary folder beside `path`; on success rename it to `path`, on error remove it.

    The folder has the mode of any folder that the process makes: 0777 less its umask.

    Args:
        path: the folder to be written. Missing parents are made. A folder that is there is replaced whole,
            with all that it holds: whether it may be is for the caller to check.

    Yields:
        An empty folder in the same parent.

    Raises:
        OSError: the parent cannot be made or written to, or `path` is a file.
    """
    target = Path(path)
    if target.exists() and not target.is_dir():
        raise NotADirectoryError(f"{target}: expected a folder or nothing, got a file")
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = _make_beside(target, target.name, "", Path.mkdir)
    try:
        yield temporary
        _swap_in(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _swap_in(folder: Path, target: Path) -> None:
    """Rename a folder to `target`; one that was there goes, or comes back where the renaming fails."""
    if not target.exists():
        folder.replace(target)
        return
    former = _make_beside(target, target.name, "", Path.mkdir)
    try:
        target.replace(former)
        try:
            folder.replace(target)
        except BaseException:
            former.replace(target)
            raise
    finally:
        shutil.rmtree(former, ignore_errors=True)


def _make_beside(target: Path, stem: str, suffix: str, make: Callable[[Path], None]) -> Path:
    """Make a file or a folder of a new hidden name.

    Not by `tempfile`, which makes it private: to widen the mode afterwards, the umask would have to be read,
    which is done by setting it, for a moment, for all threads.
    """
    while True:
        path = target.with_name(f".{stem}.{secrets.token_hex(4)}{suffix}")
        try:
            make(path)
        except FileExistsError:
            continue
        return path


def _make_file(path: Path) -> None:
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
