"""Files and folders that are either whole or not there."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary path beside `path`; on success rename it to `path`, on error remove it.

    Args:
        path: the file to be written. Missing parent folders are made.

    Yields:
        A path in the same folder, with the same suffix, that does not hold `path`'s content yet.

    Raises:
        OSError: the folder cannot be made or written to.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{target.stem}.", suffix=target.suffix, dir=target.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        # mkstemp makes files private (0600); what is written here is an ordinary output file.
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary folder beside `path`; on success rename it to `path`, on error remove it.

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
    temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        yield temporary
        temporary.chmod(0o777 & ~_umask())
        _swap_in(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _swap_in(folder: Path, target: Path) -> None:
    """Rename a folder to `target`; one that was there goes, or comes back where the renaming fails."""
    if not target.exists():
        folder.replace(target)
        return
    former = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        target.replace(former)
        try:
            folder.replace(target)
        except BaseException:
            former.replace(target)
            raise
    finally:
        shutil.rmtree(former, ignore_errors=True)


def _umask() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask
