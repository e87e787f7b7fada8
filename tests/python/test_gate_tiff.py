"""TIFFs that lack strips or tiles, or whose directory is damaged: none of them has pixels."""

import struct
import sys
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))
from gate_corpus import DEEP, PHOTO, others, planar_tiff, saved
from gate_helpers import tiff, write_metric

from pe_runtime.gate import read_image
from pe_runtime.gate.tiff import STARTS, check_strips, read_tiff

HIGH, WIDE = PHOTO.shape[:2]
ROW = WIDE * 3
START = 8  # where `tiff` puts the pixels


def save(tmp_path, data, name="image.tif"):
    path = tmp_path / name
    path.write_bytes(data)
    return path


def strips(pixels, rows, **changes):
    """A TIFF of strips of so many rows; `changes` are other offsets, lengths or rows than those."""
    size = pixels[0].nbytes
    tops = range(0, len(pixels), rows)
    offsets = [START + top * size for top in tops]
    lengths = [min(rows, len(pixels) - top) * size for top in tops]
    tags = {278: rows, 273: changes.get("offsets", offsets), 279: changes.get("lengths", lengths)}
    return tiff(pixels, {**tags, **changes.get("tags", {})})


@pytest.mark.parametrize("rows", [1, 5, 8, HIGH, 1000])
@pytest.mark.parametrize(
    "pixels", [PHOTO, DEEP, PHOTO[..., 0], DEEP[..., 0]], ids=["rgb", "rgb16", "grey", "grey16"]
)
def test_strips(tmp_path, rows, pixels):
    expected = pixels if pixels.ndim == 3 else pixels[..., None].repeat(3, axis=2)
    np.testing.assert_array_equal(read_image(save(tmp_path, strips(pixels, rows))).pixels, expected)


def test_a_file_that_lacks_strips_does_not_pass(run_command, tmp_path):
    metric = write_metric(tmp_path / "m.onnx", threshold=0.0001)
    black = PHOTO.copy()
    black[12:] = 0
    PIL.Image.fromarray(black).save(tmp_path / "black.png")
    for rows, there in ((12, 1), (6, 2)):
        offsets = [START + i * rows * ROW for i in range(there)]
        data = strips(black[:12], rows, offsets=offsets, lengths=[rows * ROW] * there, tags={257: HIGH})
        code, out, _ = run_command(
            "gate", tmp_path / "black.png", save(tmp_path, data, "lacks.tif"), "--metric", metric
        )
        assert code == 2
        assert f"strip offsets: expected {HIGH // rows}, got {there}" in out


OFFSETS, LENGTHS = [START, START + 12 * ROW], [12 * ROW, 12 * ROW]
DAMAGED = {
    "a strip too many": (strips(PHOTO, 12, offsets=[*OFFSETS, 8], lengths=[*LENGTHS, 8]), "2, got 3"),
    "an offset missing": (strips(PHOTO, 12, offsets=OFFSETS[:1]), "strip offsets: expected 2, got 1"),
    "a length missing": (strips(PHOTO, 12, lengths=LENGTHS[:1]), "strip byte counts: expected 2, got 1"),
    "a length of 0": (strips(PHOTO, 12, lengths=[12 * ROW, 0]), "inside the file"),
    "a length of less than a row": (strips(PHOTO, 12, lengths=[12 * ROW, ROW - 1]), "all their rows"),
    "a length of a row less": (strips(PHOTO, 12, lengths=[11 * ROW, 12 * ROW]), "all their rows"),
    "an offset beyond": (strips(PHOTO, 12, offsets=[START, 10**9]), "inside the file"),
    "a strip that reaches beyond": (strips(PHOTO, 12, lengths=[12 * ROW, 10**6]), "inside the file"),
    "no rows in a strip": (strips(PHOTO, 12, tags={278: 0}), "strips of pixels"),
    "three rows less": (strips(PHOTO, 12, tags={257: HIGH + 3}), "expected 3, got 2"),
    "a plane missing": (planar_tiff(np.moveaxis(PHOTO, 2, 0)).replace(
        struct.pack("<HHII", 284, 3, 1, 2), struct.pack("<HHII", 284, 3, 1, 1)), "expected 1, got 3"),
    "planes that are none": (strips(PHOTO, HIGH, tags={284: 2}), "expected 3, got 1"),
    "strips and tiles": (strips(PHOTO, 12, tags={322: 16}), "got both"),
    "no width": (tiff(PHOTO, {256: 0}), "a TIFF of pixels"),
    "no samples": (tiff(PHOTO, {277: 0}), "a TIFF of pixels"),
    "planar configuration 3": (tiff(PHOTO, {284: 3}), "a TIFF of pixels"),
    "an unknown compression": (tiff(PHOTO, {259: 9999}), "compression 9999"),
    "uncompressed YCbCr": (tiff(PHOTO, {262: 6}), "uncompressed YCbCr"),
    "two widths": (tiff(PHOTO, {256: [WIDE, WIDE]}), "at most 1 values"),
}  # fmt: skip


@pytest.mark.parametrize("what", DAMAGED)
def test_damaged(tmp_path, what):
    data, message = DAMAGED[what]
    with pytest.raises(ValueError, match=message):
        read_image(save(tmp_path, data))


def entry_of(data, tag):
    """Where the entry of a tag begins in a little-endian TIFF."""
    at = struct.unpack_from("<I", data, 4)[0]
    count = struct.unpack_from("<H", data, at)[0]
    places = [at + 2 + 12 * i for i in range(count)]
    return next(place for place in places if struct.unpack_from("<H", data, place)[0] == tag)


@pytest.mark.parametrize("tag", [256, 257, 273, 279])
def test_a_tag_that_is_missing(tmp_path, tag):
    data = bytearray(tiff(PHOTO))
    struct.pack_into("<H", data, entry_of(data, tag), 65000)
    with pytest.raises(ValueError, match=r"image\.tif: "):
        read_image(save(tmp_path, bytes(data)))


def test_a_tag_that_is_there_twice(tmp_path):
    data = bytearray(tiff(PHOTO, {65000: 1}))
    struct.pack_into("<H", data, entry_of(data, 65000), 257)
    with pytest.raises(ValueError, match="each tag once"):
        read_image(save(tmp_path, bytes(data)))


@pytest.mark.parametrize("kind", [2, 5, 6, 9, 11, 13, 77])
def test_offsets_of_another_type(tmp_path, kind):
    data = bytearray(tiff(PHOTO))
    struct.pack_into("<H", data, entry_of(data, 273) + 2, kind)
    with pytest.raises(ValueError, match="tag 273: expected integers"):
        read_image(save(tmp_path, bytes(data)))


def test_another_directory_is_another_page(tmp_path):
    data = bytearray(tiff(PHOTO))
    for following in (8, 10**9):
        struct.pack_into("<I", data, len(data) - 4, following)
        with pytest.raises(ValueError, match="single image, got a document of several pages"):
            read_image(save(tmp_path, bytes(data)))
    with pytest.raises(ValueError, match="directory inside the file"):
        read_image(save(tmp_path, bytes(data[:-1])))


def compressed(compression, pixels=PHOTO, **options):
    return saved(pixels, "TIFF", compression=compression, **options)


@pytest.mark.parametrize(
    "compression", ["tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg", "zstd", "lzma"]
)
def test_a_compressed_strip_that_lacks_rows(tmp_path, compression):
    assert read_image(save(tmp_path, compressed(compression))).pixels.shape == PHOTO.shape
    data = bytearray(compressed(compression, PHOTO[:12]))
    for tag in (257, 278):
        struct.pack_into("<I", data, entry_of(data, tag) + 8, HIGH)
    with pytest.raises(ValueError, match=r"image\.tif: "):
        read_image(save(tmp_path, bytes(data)))


@pytest.mark.parametrize("compression", ["group3", "group4"])
def test_compressions_that_hide_missing_rows(tmp_path, compression):
    data = compressed(compression, PIL.Image.fromarray(PHOTO).convert("1"))
    with pytest.raises(ValueError, match="strips can be checked, got compression"):
        read_image(save(tmp_path, data))


def test_a_jpeg_strip_that_is_cut_off(tmp_path):
    data = bytearray(compressed("jpeg"))
    length = entry_of(data, 279) + 8
    value = struct.unpack_from("<I", data, length)[0]
    struct.pack_into("<I", data, length, value - 40)
    with pytest.raises(ValueError, match="whole JPEG strips"):
        read_image(save(tmp_path, bytes(data)))


def tiles(pixels, side, missing=0):
    """A TIFF of square tiles, padded with 7; the last `missing` are left out."""
    height, width = pixels.shape[:2]
    down, across = -(-height // side), -(-width // side)
    padded = np.full((down * side, across * side, 3), 7, pixels.dtype)
    padded[:height, :width] = pixels
    blocks = padded.reshape(down, side, across, side, 3).swapaxes(1, 2).reshape(-1, side, 3)
    count, size = down * across - missing, blocks[:side].nbytes
    tags = {256: width, 257: height, 322: side, 323: side}
    data = bytearray(tiff(blocks, {
        **tags, 273: [8 + i * size for i in range(count)], 279: [size] * count, 278: 1}))  # fmt: skip
    for old, new in ((273, 324), (279, 325), (278, 65001)):
        struct.pack_into("<H", data, entry_of(data, old), new)
    # In the order of tags, which readers expect.
    at = struct.unpack_from("<I", data, 4)[0]
    entries = struct.unpack_from("<H", data, at)[0]
    parts = sorted(
        (bytes(data[at + 2 + 12 * i : at + 14 + 12 * i]) for i in range(entries)),
        key=lambda part: struct.unpack_from("<H", part)[0],
    )
    data[at + 2 : at + 2 + 12 * entries] = b"".join(parts)
    return bytes(data)


@pytest.mark.parametrize("pixels", [PHOTO, DEEP], ids=["8", "16"])
def test_tiles(tmp_path, pixels):
    np.testing.assert_array_equal(read_image(save(tmp_path, tiles(pixels, 16))).pixels, pixels)
    with pytest.raises(ValueError, match="tile offsets: expected 4, got 3"):
        read_image(save(tmp_path, tiles(pixels, 16, missing=1)))


def test_bigtiff(tmp_path):
    try:
        data = saved(PHOTO, "TIFF", big_tiff=True)
    except TypeError:
        pytest.skip("this Pillow writes no BigTIFF")
    assert data.startswith(STARTS[2:])
    np.testing.assert_array_equal(read_image(save(tmp_path, data)).pixels, PHOTO)
    for keep in (3, 12, 100, len(data) // 2, len(data) - 1):
        with pytest.raises(ValueError, match=r"image\.tif: "):
            read_image(save(tmp_path, data[:keep]))


TIFFS = [(name, data) for name, data in others() if name.endswith(".tif") and data.startswith(STARTS)]


@pytest.mark.parametrize(("name", "data"), TIFFS, ids=lambda value: value if isinstance(value, str) else "")
def test_every_truncation_is_refused(name, data):
    for keep in range(len(data) - 1):
        with pytest.raises(ValueError, match=r"\w"):
            check_strips(read_tiff(data[:keep]))


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_changes_are_refused_or_read(tmp_path, data):
    _, content = data.draw(st.sampled_from(TIFFS))
    changed = bytearray(content)
    directory = struct.unpack_from("<I", content, 4)[0] if content[:2] == b"II" else 0
    for _ in range(data.draw(st.integers(1, 3))):
        at = min(
            data.draw(st.integers(0, len(content) - 1) | st.integers(0, 250).map(directory.__add__)),
            len(content) - 1,
        )
        changed[at] = data.draw(st.integers(0, 255))
    path = save(tmp_path, bytes(changed))
    try:
        image = read_image(path)
    except ValueError:
        return
    assert image.pixels.ndim == 3


@settings(max_examples=400, deadline=None)
@given(start=st.sampled_from(STARTS), data=st.binary(max_size=120))
def test_any_bytes(start, data):
    with pytest.raises(ValueError, match=r"\w"):
        check_strips(read_tiff(start + data))


@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize("orientation", [3, 6])
def test_decoders_do_not_turn_what_is_turned_here(tmp_path, depth, orientation):
    # XMP and the tag say different things, and the tag goes first; without it, XMP.
    pixels = PHOTO if depth == 8 else DEEP
    xmp = list(b"<x tiff:Orientation='8'/>")
    data = bytearray(tiff(pixels, {274: orientation, 700: xmp}, byte_tags=(700,)))
    turns = {3: 2, 6: -1, 8: 1}
    image = read_image(save(tmp_path, bytes(data)))
    np.testing.assert_array_equal(image.pixels, np.rot90(pixels, turns[orientation]))
    struct.pack_into("<H", data, entry_of(data, 274), 65000)
    image = read_image(save(tmp_path, bytes(data)))
    np.testing.assert_array_equal(image.pixels, np.rot90(pixels, turns[8]))
    assert image.orientation == 8
