"""Which candidate file is compared with which reference file."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

#: File name suffixes that mark images when a directory is searched, in lower case.
SUFFIXES = frozenset(
    (".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".webp", ".bmp", ".dib", ".tif", ".tiff")
)


@dataclass(frozen=True)
class Pair:
    """Two files to be compared.

    Attributes:
        name: path relative to the directories, with forward slashes (without suffix where stems were
            matched); the candidate's file name for a pair of files.
        reference: None where the candidate is extra.
        candidate: None where it is missing.
    """

    name: str
    reference: Path | None
    candidate: Path | None


@dataclass(frozen=True)
class Pairing:
    """The pairs, sorted by name, and the files that are in no pair.

    Attributes:
        pairs: includes one-sided pairs unless they were allowed.
        skipped: files passed over: hidden, not images by their suffix, or allowed to be one-sided; each
            as "path (reason)".
    """

    pairs: tuple[Pair, ...]
    skipped: tuple[str, ...]


def find_pairs(
    reference: str | os.PathLike[str],
    candidate: str | os.PathLike[str],
    *,
    match_stem: bool = False,
    allow_missing: bool = False,
    allow_extra: bool = False,
) -> Pairing:
    """Pair two files, or the images of two directories by their relative names.

    Directories are searched recursively, through symbolic links, except where a link leads back to a
    directory that holds it. Hidden files and directories, and files whose suffix is not an image's, are
    skipped and listed.

    Args:
        reference: a file or a directory.
        candidate: the same kind.
        match_stem: pair by the relative name without its suffix ("a/b.png" with "a/b.jpg").
        allow_missing: skip references that have no candidate, instead of returning one-sided pairs.
        allow_extra: skip candidates that have no reference, instead of returning one-sided pairs.

    Returns:
        At least one pair.

    Raises:
        ValueError: a file and a directory; no pair at all; two files of one directory with the same stem.
        OSError: a path does not exist, or a directory cannot be read.
    """
    reference, candidate = Path(reference), Path(candidate)
    kinds = [_is_directory(path, name) for path, name in ((reference, "reference"), (candidate, "candidate"))]
    if kinds == [False, False]:
        return Pairing((Pair(candidate.name, reference, candidate),), ())
    if kinds != [True, True]:
        raise ValueError(
            "reference and candidate: expected two files or two directories, "
            f"got {reference} and {candidate}, one of each"
        )
    skipped: list[str] = []
    references = _images(reference, "reference", match_stem, skipped)
    candidates = _images(candidate, "candidate", match_stem, skipped)
    pairs = []
    for name in sorted(references.keys() | candidates.keys()):
        pair = Pair(name, references.get(name), candidates.get(name))
        if pair.candidate is None and allow_missing:
            skipped.append(f"{pair.reference} (no candidate)")
        elif pair.reference is None and allow_extra:
            skipped.append(f"{pair.candidate} (no reference)")
        else:
            pairs.append(pair)
    if not pairs:
        raise ValueError(
            f"reference and candidate: expected at least one pair of images, got none in {reference} "
            f"and {candidate} ({len(skipped)} files skipped)"
        )
    return Pairing(tuple(pairs), tuple(skipped))


def _is_directory(path: Path, name: str) -> bool:
    if not path.exists():
        raise FileNotFoundError(f"{name}: expected a file or a directory, got {path}, which does not exist")
    return path.is_dir()


def _images(root: Path, side: str, match_stem: bool, skipped: list[str]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in _walk(root, skipped):
        if path.suffix.lower() not in SUFFIXES:
            skipped.append(f"{path} (not an image by its suffix)")
            continue
        relative = path.relative_to(root)
        name = (relative.with_suffix("") if match_stem else relative).as_posix()
        if name in found:
            raise ValueError(
                f"{side}: expected one file with the stem {name!r}, got {found[name].name} and {path.name}"
            )
        found[name] = path
    return found


def _walk(root: Path, skipped: list[str], above: tuple[tuple[int, int], ...] = ()) -> Iterator[Path]:
    status = root.stat()
    here = (status.st_dev, status.st_ino)
    if here in above:
        skipped.append(f"{root} (a link to a directory that holds it)")
        return
    with os.scandir(root) as listing:
        entries = sorted(listing, key=lambda entry: entry.name)
    for entry in entries:
        if entry.name.startswith("."):
            skipped.append(f"{entry.path} (hidden)")
        elif entry.is_dir():
            yield from _walk(Path(entry.path), skipped, (*above, here))
        else:
            yield Path(entry.path)
