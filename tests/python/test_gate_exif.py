"""Which way up an image is: one rule for EXIF, XMP and the tag of TIFF files."""

import sys
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))
from gate_corpus import EXIF, PHOTO, XMP, exif_block, oriented, raw_profiles, value
from gate_helpers import chunk, exif, png, tiff

from pe_runtime.gate import read_image
from pe_runtime.gate.exif import orientation
from pe_runtime.gate.images import read_pair

FILES = dict(oriented())
TURNED = {1: PHOTO, 3: PHOTO[::-1, ::-1]}


@pytest.fixture
def read(tmp_path):
    def read(name):
        path = tmp_path / name
        path.write_bytes(FILES[name])
        return read_image(path)

    return read


def check_turned(image, seen):
    if image.format in ("JPEG", "MPO"):
        with PIL.Image.open(image.path) as file:
            np.testing.assert_array_equal(
                image.pixels, np.asarray(file)[:: 1 if seen == 1 else -1, :: 1 if seen == 1 else -1]
            )
    else:
        np.testing.assert_array_equal(image.pixels, TURNED[seen])
    assert image.orientation == seen


@pytest.mark.parametrize("suffix", ["png", "webp", "jpg"])
@pytest.mark.parametrize("name", EXIF)
def test_exif(read, name, suffix):
    block, seen, damaged = EXIF[name]
    image = read(f"exif {name}.{suffix}")
    check_turned(image, seen)
    assert image.damaged_exif == damaged
    assert orientation(block, b"") == (seen, damaged)


@pytest.mark.parametrize("kind", ["{}.png", "{}, exif without.png", "{}.jpg", "{}.webp", "{}.tif"])
@pytest.mark.parametrize("name", XMP)
def test_xmp(read, name, kind):
    check_turned(read("xmp " + kind.format(name)), XMP[name][1])


@pytest.mark.parametrize(
    ("name", "damaged"), [("damaged", True), ("upright", False), ("bad", False), ("empty", True)]
)
def test_exif_goes_before_xmp(read, name, damaged):
    image = read(f"xmp and {name} exif.png")
    check_turned(image, 1)
    assert image.damaged_exif == damaged


@pytest.mark.parametrize("kind", ["tEXt", "zTXt", "iTXt"])
@pytest.mark.parametrize("name", raw_profiles())
def test_exif_in_texts(read, name, kind):
    image = read(f"raw {name} {kind}.png")
    damaged = name in ("two lines", "no digits")
    check_turned(image, 1 if damaged else 3)
    assert image.damaged_exif == damaged


@pytest.mark.parametrize(("name", "seen"), [("type 1", 3), ("type 4", 3), ("9", 1), ("twice", 1)])
def test_tags_of_tiff_files(read, name, seen):
    check_turned(read(f"orientation {name}.tif"), seen)


def test_a_chunk_goes_before_a_text(tmp_path):
    text = chunk(b"tEXt", b"Raw profile type exif\0" + raw_profiles()["lower"])
    for chunks in (text + chunk(b"eXIf", exif(1)), chunk(b"eXIf", exif(1)) + text):
        (tmp_path / "x.png").write_bytes(png(PHOTO, depth=8, colour=2, chunks=chunks))
        assert read_image(tmp_path / "x.png").orientation == 1


def test_the_last_text_counts(tmp_path):
    packets = [b"XML:com.adobe.xmp\0\0\0\0\0<x tiff:Orientation='%d'/>" % seen for seen in (3, 6)]
    data = png(PHOTO, depth=8, colour=2, chunks=b"".join(chunk(b"iTXt", packet) for packet in packets))
    (tmp_path / "x.png").write_bytes(data)
    assert read_image(tmp_path / "x.png").orientation == 6
    data = png(
        PHOTO, depth=8, colour=2, chunks=chunk(b"iTXt", packets[0]) + chunk(b"tEXt", b"XML\0" + packets[1])
    )
    (tmp_path / "x.png").write_bytes(data)
    assert read_image(tmp_path / "x.png").orientation == 3


def test_a_damaged_block_is_a_warning(tmp_path):
    (tmp_path / "a.png").write_bytes(png(PHOTO, depth=8, colour=2))
    (tmp_path / "b.png").write_bytes(png(PHOTO, depth=8, colour=2, chunks=chunk(b"eXIf", b"II*\2")))
    (tmp_path / "c.tif").write_bytes(tiff(PHOTO, {274: 9}))
    words = "the EXIF data of the {} is damaged and is ignored"
    assert read_pair(tmp_path / "a.png", tmp_path / "b.png")[2] == (words.format("candidate"),)
    assert read_pair(tmp_path / "b.png", tmp_path / "a.png")[2] == (words.format("reference"),)
    assert read_pair(tmp_path / "a.png", tmp_path / "c.tif")[2] == ()


@settings(max_examples=500)
@given(
    block=st.binary(max_size=60)
    | st.tuples(st.sampled_from([b"II*\0", b"MM\0*"]), st.binary(max_size=60)).map(b"".join),
    prefixes=st.integers(0, 3),
    xmp=st.binary(max_size=60),
)
def test_any_block(block, prefixes, xmp):
    found, damaged = orientation(b"Exif\0\0" * prefixes + block, xmp)
    assert 1 <= found <= 8
    assert not damaged or found == 1


@settings(max_examples=300)
@given(
    order=st.sampled_from("<>"),
    tag=st.sampled_from([0x0112, 0x0111]),
    kind=st.sampled_from([1, 3, 4]),
    number=st.integers(0, 255),
    before=st.lists(st.integers(1, 0x0111), max_size=5),
)
def test_a_value_is_read_back(order, tag, kind, number, before):
    entries = [(other, 3, 1, value(5, 3, order)) for other in before]
    block = exif_block([*entries, (tag, kind, 1, value(number, kind, order))], order)
    seen = number if tag == 0x0112 and 1 <= number <= 8 else 1
    assert orientation(block, b"") == (seen, False)
