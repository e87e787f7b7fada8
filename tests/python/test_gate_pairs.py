import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pe_runtime.gate import Pair, find_pairs


def make(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    root.mkdir(exist_ok=True)
    return root


@pytest.fixture
def roots(tmp_path):
    return tmp_path / "reference", tmp_path / "candidate"


def test_two_files(roots):
    a, b = make(roots[0], "x.png") / "x.png", make(roots[1], "y.jpg") / "y.jpg"
    assert find_pairs(a, b).pairs == (Pair("y.jpg", a, b),)


def test_directories_pair_by_relative_name(roots):
    a, b = make(roots[0], "b.png", "deep/er/a.PNG"), make(roots[1], "deep/er/a.PNG", "b.png")
    pairing = find_pairs(str(a), b)
    assert pairing.pairs == (
        Pair("b.png", a / "b.png", b / "b.png"),
        Pair("deep/er/a.PNG", a / "deep/er/a.PNG", b / "deep/er/a.PNG"),
    )
    assert pairing.skipped == ()


def test_missing_and_extra_are_one_sided_pairs(roots):
    a, b = make(roots[0], "both.png", "left.png"), make(roots[1], "both.png", "right.png")
    assert [(p.name, bool(p.reference), bool(p.candidate)) for p in find_pairs(a, b).pairs] == [
        ("both.png", True, True),
        ("left.png", True, False),
        ("right.png", False, True),
    ]
    allowed = find_pairs(a, b, allow_missing=True, allow_extra=True)
    assert [pair.name for pair in allowed.pairs] == ["both.png"]
    assert allowed.skipped == (f"{a / 'left.png'} (no candidate)", f"{b / 'right.png'} (no reference)")
    assert [p.name for p in find_pairs(a, b, allow_missing=True).pairs] == ["both.png", "right.png"]
    assert [p.name for p in find_pairs(a, b, allow_extra=True).pairs] == ["both.png", "left.png"]


def test_names_differ_by_suffix(roots):
    a, b = make(roots[0], "s/a.png"), make(roots[1], "s/a.jpg")
    assert len(find_pairs(a, b).pairs) == 2
    assert find_pairs(a, b, match_stem=True).pairs == (Pair("s/a", a / "s/a.png", b / "s/a.jpg"),)


def test_stems_keep_inner_dots(roots):
    a, b = make(roots[0], "frame.001.png", "frame.002.png"), make(roots[1], "frame.001.jpg", "frame.002.jpg")
    assert [p.name for p in find_pairs(a, b, match_stem=True).pairs] == ["frame.001", "frame.002"]


def test_ambiguous_stem(roots):
    a, b = make(roots[0], "a.png"), make(roots[1], "a.jpg", "a.webp")
    with pytest.raises(ValueError, match=r"candidate: expected one file with the stem 'a', got a\.jpg and a"):
        find_pairs(a, b, match_stem=True)


def test_hidden_and_other_files_are_skipped_and_listed(roots):
    names = ("a.png", ".hidden.png", ".git/x.png", "notes.txt", "sub/Thumbs.db")
    a, b = make(roots[0], *names), make(roots[1], "a.png")
    pairing = find_pairs(a, b)
    assert [pair.name for pair in pairing.pairs] == ["a.png"]
    assert pairing.skipped == (
        f"{a / '.git'} (hidden)",
        f"{a / '.hidden.png'} (hidden)",
        f"{a / 'notes.txt'} (not an image by its suffix)",
        f"{a / 'sub/Thumbs.db'} (not an image by its suffix)",
    )


@pytest.mark.parametrize("names", [(), ("notes.txt",), (".a.png",)])
def test_no_images(roots, names):
    a, b = make(roots[0], *names), make(roots[1], *names)
    with pytest.raises(ValueError, match="expected at least one pair of images, got none"):
        find_pairs(a, b)


def test_nothing_in_common_with_everything_allowed(roots):
    a, b = make(roots[0], "a.png"), make(roots[1], "b.png")
    with pytest.raises(ValueError, match="expected at least one pair of images, got none"):
        find_pairs(a, b, allow_missing=True, allow_extra=True)


def test_file_and_directory(roots):
    a, b = make(roots[0], "a.png"), make(roots[1], "a.png")
    for pair in ((a, b / "a.png"), (a / "a.png", b)):
        with pytest.raises(
            ValueError, match="reference and candidate: expected two files or two directories"
        ):
            find_pairs(*pair)


def test_missing_paths(roots):
    a, b = make(roots[0], "a.png"), roots[1]
    with pytest.raises(FileNotFoundError, match="candidate: expected a file or a directory"):
        find_pairs(a, b)
    with pytest.raises(FileNotFoundError, match="reference: expected a file or a directory"):
        find_pairs(b, a)


def test_symbolic_links(roots):
    a, b = make(roots[0], "a.png", "sub/b.png"), make(roots[1], "a.png", "sub/b.png")
    try:
        (a / "sub" / "loop").symlink_to(a, target_is_directory=True)
    except OSError:
        pytest.skip("symbolic links cannot be made here")
    (b / "link.png").symlink_to(b / "a.png")
    (a / "link.png").symlink_to(a / "nowhere.png")
    pairing = find_pairs(a, b)
    # A broken link is a file that cannot be read later, not one that is not there.
    assert [pair.name for pair in pairing.pairs] == ["a.png", "link.png", "sub/b.png"]
    assert all(pair.reference and pair.candidate for pair in pairing.pairs)
    assert pairing.skipped == (f"{a / 'sub' / 'loop'} (a link to a directory that holds it)",)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root reads everything")
def test_unreadable_directory(roots):
    a, b = make(roots[0], "a.png", "locked/b.png"), make(roots[1], "a.png")
    (a / "locked").chmod(0)
    try:
        with pytest.raises(PermissionError):
            find_pairs(a, b)
    finally:
        (a / "locked").chmod(0o700)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    left=st.sets(st.sampled_from([f"{d}{n}.png" for d in ("", "x/", "x/y/") for n in "abc"])),
    right=st.sets(st.sampled_from([f"{d}{n}.png" for d in ("", "x/", "x/y/") for n in "abc"])),
)
def test_every_file_is_in_one_pair(tmp_path_factory, left, right):
    root = tmp_path_factory.mktemp("pairs")
    a, b = make(root / "a", *left), make(root / "b", *right)
    if not left | right:
        with pytest.raises(ValueError, match="got none"):
            find_pairs(a, b)
        return
    pairs = find_pairs(a, b).pairs
    assert [pair.name for pair in pairs] == sorted(left | right)
    assert {p.reference.relative_to(a).as_posix() for p in pairs if p.reference} == left
    assert {p.candidate.relative_to(b).as_posix() for p in pairs if p.candidate} == right


@pytest.mark.parametrize("name", ["a.avif", "a.HEIC", "deep/a.gif", "a.jxl", "a.exr", "a.svg", "a.jp2"])
def test_images_that_are_not_read_make_pairs(roots, name):
    pairing = find_pairs(make(roots[0], "x.png", name), make(roots[1], "x.png", name))
    assert sorted(pair.name for pair in pairing.pairs) == sorted(["x.png", name])
    assert pairing.skipped == ()


BEGINNINGS = {
    "PNG": b"\x89PNG\r\n\x1a\n",
    "JPEG": b"\xff\xd8\xff\xe0",
    "WebP": b"RIFF\x10\0\0\0WEBPVP8 ",
    "TIFF": b"MM\0*\0\0\0\x08",
    "BigTIFF": b"II+\0\x08\0\0\0",
    "GIF": b"GIF89a",
    "AVIF": b"\0\0\0\x20ftypavif",
    "HEIF": b"\0\0\0\x18ftypmif1",
    "JPEG XL": bytes.fromhex("0000000C4A584C200D0A870A"),
    "JPEG 2000": bytes.fromhex("0000000C6A5020200D0A870A"),
    "OpenEXR": b"\x76\x2f\x31\x01",
    "QOI": b"qoif",
    "Radiance": b"#?RADIANCE\n",
}


@pytest.mark.parametrize("kind", BEGINNINGS)
def test_the_content_makes_an_image_too(roots, kind):
    a, b = make(roots[0], "x.png", "frame", "data.bin"), make(roots[1], "x.png")
    (a / "frame").write_bytes(BEGINNINGS[kind])
    (a / "data.bin").write_bytes(BEGINNINGS[kind] + b"\0" * 100)
    pairing = find_pairs(a, b)
    assert [pair.name for pair in pairing.pairs] == ["data.bin", "frame", "x.png"]


@pytest.mark.parametrize(
    "content", [b"", b"BM", b"BM6\0", b"\xff\x0a", b"RIFF\x10\0\0\0WAVE", b"\0\0\0\x18ftypisom"]
)
def test_content_that_makes_no_image(roots, content):
    a, b = make(roots[0], "x.png", "data.bin"), make(roots[1], "x.png")
    (a / "data.bin").write_bytes(content)
    assert find_pairs(a, b).skipped == (f"{a / 'data.bin'} (not an image by its suffix)",)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=40), name=st.sampled_from(["data", "data.bin", "data.png"]))
def test_whatever_a_file_holds_it_is_paired_or_listed(tmp_path_factory, content, name):
    root = tmp_path_factory.mktemp("content")
    make(root, "x.png")
    (root / name).write_bytes(content)
    pairing = find_pairs(root, root)
    assert len(pairing.pairs) - 1 + len(pairing.skipped) // 2 == 1


def test_what_cannot_be_looked_into(roots):
    a, b = make(roots[0], "x.png"), make(roots[1], "x.png")
    (a / "gone").symlink_to(a / "nowhere")
    os.mkfifo(a / "pipe")
    os.mkfifo(a / "pipe.png")
    pairing = find_pairs(a, b)
    # A pipe would be waited for; by its name it may be an image, which reading it then refuses.
    assert [pair.name for pair in pairing.pairs] == ["gone", "pipe.png", "x.png"]
    assert pairing.skipped == (f"{a / 'pipe'} (not an image by its suffix)",)


@pytest.mark.parametrize(
    ("pattern", "ignored"),
    [
        ("*.gif", {"a.gif", "deep/b.gif"}),
        ("deep/*", {"deep/b.gif", "deep/er/c.png"}),
        ("deep/*.gif", {"deep/b.gif"}),
        ("a.gif", {"a.gif"}),
        ("er/c.png", set()),
        ("[ab].gif", {"a.gif", "deep/b.gif"}),
        ("[!a].gif", {"deep/b.gif"}),
        ("?.GIF", set()),
        ("notes*", {"notes.txt"}),
        ("\\*.gif", set()),
    ],
)
def test_ignore(roots, pattern, ignored):
    names = ("a.gif", "deep/b.gif", "deep/er/c.png", "notes.txt", "x.png", ".hidden.gif")
    a, b = make(roots[0], *names), make(roots[1], *names)
    pairing = find_pairs(a, b, ignore=[pattern, "no such"])
    lines = {f"{root / name} (ignored)" for root in (a, b) for name in ignored}
    assert lines == {line for line in pairing.skipped if line.endswith("(ignored)")}
    assert {pair.name for pair in pairing.pairs} == set(names) - ignored - {"notes.txt", ".hidden.gif"}
    assert f"{a / '.hidden.gif'} (hidden)" in pairing.skipped


def test_files_skipped_unasked_are_counted(roots):
    a = make(roots[0], "x.png", ".hidden", "notes.txt", "left.png", "old.gif")
    b = make(roots[1], "x.png", "right.png", "notes.txt", "data.bin")
    (b / "loop").symlink_to(b, target_is_directory=True)
    pairing = find_pairs(a, b, allow_missing=True, allow_extra=True, ignore=["*.gif"])
    assert len(pairing.skipped) == 8
    assert pairing.unexpected == 4  # the notes, the data, the loop
