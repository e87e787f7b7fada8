"""Which candidate file is compared with which reference file."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

_READ = ".png .apng .jpg .jpeg .jpe .jfif .mpo .webp .bmp .dib .tif .tiff"
# Of other formats, which make pairs so that they cannot be passed over.
_OTHERS = """
    .avif .avifs .heic .heics .heif .heifs .hif .gif .jxl .exr .jp2 .j2k .j2c .jpx .jpf .jpm .jxr .wdp .hdr
    .pic .tga .dds .psd .psb .svg .svgz .ico .icns .cur .ppm .pgm .pbm .pnm .pam .pfm .qoi .ktx .ktx2 .dng
    .cr2 .cr3 .nef .arw .orf .rw2 .raf .pcx .sgi .rgb .xcf
"""
#: File name suffixes that mark images when a directory is searched, in lower case.
SUFFIXES = frozenset((*_READ.split(), *_OTHERS.split()))

# How files of images begin. A bitmap's two letters alone do not make one.
_STARTS = (
    b"\x89PNG\r\n\x1a\n",
    b"\xff\xd8\xff",  # JPEG
    b"II*\0",  # TIFF
    b"MM\0*",
    b"II+\0",
    b"MM\0+",
    b"GIF87a",
    b"GIF89a",
    b"\0\0\0\x0cJXL \r\n\x87\n",
    b"\0\0\0\x0cjP  \r\n\x87\n",  # JPEG 2000
    b"\x76\x2f\x31\x01",  # OpenEXR
    b"qoif",
    b"8BPS",  # Photoshop
    b"DDS ",
    b"#?RADIANCE",
)
_BRANDS = (b"avif", b"avis", b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")


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
        skipped: files passed over: hidden, ignored, not images, or allowed to be one-sided; each
            as "path (reason)".
        unexpected: how many of them nobody asked to pass over: they are not hidden, ignored or allowed.
    """

    pairs: tuple[Pair, ...]
    skipped: tuple[str, ...]
    unexpected: int = 0


def find_pairs(
    reference: str | os.PathLike[str],
    candidate: str | os.PathLike[str],
    *,
    match_stem: bool = False,
    allow_missing: bool = False,
    allow_extra: bool = False,
    ignore: Iterable[str] = (),
) -> Pairing:
    """Pair two files, or the images of two directories by their relative names.

    Directories are searched recursively, through symbolic links, except where a link leads back to a
    directory that holds it. Hidden files and directories, files that `ignore` names, and files that
    are no images by their suffix or content are skipped and listed. Images of a kind that the gate does not
    read make pairs like others.

    Args:
        reference: a file or a directory.
        candidate: the same kind.
        match_stem: pair by the relative name without its suffix ("a/b.png" with "a/b.jpg").
        allow_missing: skip references that have no candidate, instead of returning one-sided pairs.
        allow_extra: skip candidates that have no reference, instead of returning one-sided pairs.
        ignore: shell patterns, as `fnmatch.fnmatchcase` takes them, of files to skip: compared with the path
            relative to the directory, with forward slashes, and, without a slash, with the file name.

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
    skipped = _Skipped()
    patterns = tuple(ignore)
    references = _images(reference, "reference", match_stem, patterns, skipped)
    candidates = _images(candidate, "candidate", match_stem, patterns, skipped)
    pairs = []
    for name in sorted(references.keys() | candidates.keys()):
        pair = Pair(name, references.get(name), candidates.get(name))
        if pair.candidate is None and allow_missing:
            skipped.add(pair.reference, "no candidate")
        elif pair.reference is None and allow_extra:
            skipped.add(pair.candidate, "no reference")
        else:
            pairs.append(pair)
    if not pairs:
        raise ValueError(
            f"reference and candidate: expected at least one pair of images, got none in {reference} "
            f"and {candidate} ({len(skipped.lines)} files skipped)"
        )
    return Pairing(tuple(pairs), tuple(skipped.lines), skipped.unexpected)


class _Skipped:
    def __init__(self) -> None:
        self.lines: list[str] = []
        self.unexpected = 0

    def add(self, path: str | os.PathLike[str] | None, reason: str, *, unexpected: bool = False) -> None:
        self.lines.append(f"{path} ({reason})")
        self.unexpected += unexpected


def _is_directory(path: Path, name: str) -> bool:
    if not path.exists():
        raise FileNotFoundError(f"{name}: expected a file or a directory, got {path}, which does not exist")
    return path.is_dir()


def _images(
    root: Path, side: str, match_stem: bool, ignore: tuple[str, ...], skipped: _Skipped
) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in _walk(root, skipped):
        relative = path.relative_to(root)
        if _is_ignored(relative, ignore):
            skipped.add(path, "ignored")
            continue
        if path.suffix.lower() not in SUFFIXES and not _begins_as_image(path):
            skipped.add(path, "not an image by its suffix", unexpected=True)
            continue
        name = (relative.with_suffix("") if match_stem else relative).as_posix()
        if name in found:
            raise ValueError(
                f"{side}: expected one file with the stem {name!r}, got {found[name].name} and {path.name}"
            )
        found[name] = path
    return found


def _is_ignored(relative: Path, patterns: tuple[str, ...]) -> bool:
    return any(
        fnmatchcase(relative.as_posix(), pattern)
        or ("/" not in pattern and fnmatchcase(relative.name, pattern))
        for pattern in patterns
    )


def _begins_as_image(path: Path) -> bool:
    """Whether a file's content is that of an image. One that cannot be read may be one."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return False
        with path.open("rb") as file:
            start = file.read(16)
    except OSError:
        return True
    return (
        start.startswith(_STARTS)
        or (start[:4] == b"RIFF" and start[8:12] == b"WEBP")
        or (start[4:8] == b"ftyp" and start[8:12] in _BRANDS)
    )


def _walk(root: Path, skipped: _Skipped, above: tuple[tuple[int, int], ...] = ()) -> Iterator[Path]:
    status = root.stat()
    here = (status.st_dev, status.st_ino)
    if here in above:
        skipped.add(root, "a link to a directory that holds it", unexpected=True)
        return
    with os.scandir(root) as listing:
        entries = sorted(listing, key=lambda entry: entry.name)
    for entry in entries:
        if entry.name.startswith("."):
            skipped.add(entry.path, "hidden")
        elif entry.is_dir():
            yield from _walk(Path(entry.path), skipped, (*above, here))
        else:
            yield Path(entry.path)
