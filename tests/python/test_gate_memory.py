"""What cannot match costs nothing, and what can is read without large temporaries."""

import struct
import sys
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from gate_corpus import PHOTO, icc, saved, swapped_profile
from gate_helpers import chunk, exif, png, run_python, tiff, write_metric

from pe_runtime.gate import Judge, read_image
from pe_runtime.gate.decoding import ImageFile, blocks
from pe_runtime.gate.images import read_pair
from pe_runtime.gate.png import read_png

SIZES = r"reference and distorted: expected the same width and height, got {} x {} and {} x {}"


def bomb(width, height):
    """A PNG of black RGBA of 16 bits, 1000 times as large in memory as in the file."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, 6, 0, 0, 0))
    deflate, row = zlib.compressobj(1), bytes(1 + 8 * width)
    pixels = b"".join(deflate.compress(row) for _ in range(height)) + deflate.flush()
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


PAIR = """
import resource, sys, time
from pe_runtime.gate.images import read_pair
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
start = time.process_time()
try:
    read_pair(sys.argv[1], sys.argv[2])
except ValueError as error:
    print(error)
print(time.process_time() - start)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the unit of the peak is Linux's")
def test_sizes_that_cannot_match_cost_nothing(tmp_path):
    (tmp_path / "large.png").write_bytes(bomb(9459, 9459))  # 716 MB of pixels
    PIL.Image.new("RGB", (64, 64)).save(tmp_path / "small.png")
    for pair in (("large.png", "small.png"), ("small.png", "large.png")):
        done = run_python(PAIR, *(tmp_path / name for name in pair))
        assert done.returncode == 0, done.stderr
        error, seconds, kilobytes = done.stdout.splitlines()
        assert "expected the same width and height" in error
        assert float(seconds) < 1
        assert int(kilobytes) < 50_000


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "TIFF"])
def test_sizes_are_compared_from_the_headers(tmp_path, monkeypatch, kind):
    def decode(file):
        raise AssertionError(f"{file.path} is decoded")

    monkeypatch.setattr(ImageFile, "decode", decode)
    (tmp_path / "a").write_bytes(saved(PHOTO, kind))
    (tmp_path / "b").write_bytes(saved(PHOTO[:20], "PNG"))
    with pytest.raises(ValueError, match=SIZES.format(32, 24, 32, 20)):
        read_pair(tmp_path / "a", tmp_path / "b")
    with pytest.raises(ValueError, match=SIZES.format(32, 20, 32, 24)):
        read_pair(tmp_path / "b", tmp_path / "a")


def test_turned_images_may_match(tmp_path):
    turned = png(PHOTO, depth=8, colour=2, chunks=chunk(b"eXIf", exif(6)))
    (tmp_path / "turned.png").write_bytes(turned)
    (tmp_path / "stored.png").write_bytes(png(PHOTO, depth=8, colour=2))
    (tmp_path / "seen.png").write_bytes(png(np.rot90(PHOTO, -1), depth=8, colour=2))
    first, second, _ = read_pair(tmp_path / "turned.png", tmp_path / "seen.png")
    np.testing.assert_array_equal(first.pixels, second.pixels)
    with pytest.raises(ValueError, match=SIZES.format(24, 32, 32, 24)):
        read_pair(tmp_path / "turned.png", tmp_path / "stored.png")


def peak_of(function):
    tracemalloc.start()
    try:
        result = function()
        return result, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(("depth", "profile"), [(8, False), (16, False), (8, True), (16, True)])
def test_reading_holds_no_large_temporaries(tmp_path, depth, profile):
    size = (1500, 1000)
    samples = np.random.default_rng(0).integers(0, 2, (*size, 4), dtype=np.uint8) * 200
    stored = samples if depth == 8 else samples.astype(np.uint16) * 257
    chunks = icc(swapped_profile()) if profile else b""
    path = tmp_path / "x.png"
    path.write_bytes(png(stored, depth=depth, colour=6, chunks=chunks))
    read_image(path, colour="srgb")  # what is imported on first use
    image, peak = peak_of(lambda: read_image(path, colour="srgb"))
    assert image.opposite is not None
    decoded, results = stored.nbytes, 2 * image.pixels.nbytes
    converted = 3 * size[0] * size[1] if profile else 0
    alpha = size[0] * size[1] if profile and depth == 16 else 0
    few = 12 << 20
    assert peak < 2 * path.stat().st_size + decoded + converted + alpha + results + few


def test_an_opaque_image_is_held_once(tmp_path):
    path = tmp_path / "x.png"
    path.write_bytes(png(np.zeros((2000, 1500, 3), np.uint8), depth=8, colour=2))
    image, peak = peak_of(lambda: read_image(path))
    assert peak < image.pixels.nbytes + (4 << 20)


def test_inflating_is_in_bounded_memory():
    file = read_png(bomb(3000, 3000))  # 72 MB
    _, peak = peak_of(file.check_pixels)
    assert peak < 4 << 20


@pytest.mark.parametrize("kind", [b"prVt", b"IDAT", b"tEXt", b"fcTL"])
def test_chunks_without_number_are_in_bounded_memory(kind):
    whole = png(PHOTO, depth=8, colour=2)
    data = whole[:33] + chunk(kind, b"") * 100_000 + whole[33:]
    file, peak = peak_of(lambda: read_png(data))
    assert peak < 1 << 20
    _, peak = peak_of(file.check_pixels)
    assert peak < 1 << 20


def test_texts_that_inflate_are_inflated_once(monkeypatch):
    inflated = []
    monkeypatch.setattr("pe_runtime.gate.png._inflated", lambda text: inflated.append(text) or b"")
    text = chunk(b"zTXt", b"XML:com.adobe.xmp\0\0" + zlib.compress(bytes(1 << 20)))
    read_png(png(PHOTO, depth=8, colour=2, chunks=text * 50))
    assert len(inflated) == 1


def test_strips_without_number_are_refused(tmp_path):
    count = (1 << 20) + 1
    data = tiff(np.zeros((count, 1), np.uint8), {256: 1, 257: 1, 278: 1, 273: [8] * count, 279: [1] * count})
    data = bytearray(data)
    at = struct.unpack_from("<I", data, 4)[0]
    for entry in range(at + 2, len(data) - 4, 12):
        if struct.unpack_from("<H", data, entry)[0] == 257:
            struct.pack_into("<HHII", data, entry, 257, 4, 1, count)
    (tmp_path / "x.tif").write_bytes(data)
    with pytest.raises(ValueError, match="at most 1048576 strips"):
        read_image(tmp_path / "x.tif")


def test_rounding_for_the_metric_is_in_bounded_memory(tmp_path):
    judge = Judge(write_metric(tmp_path / "m.onnx", uint8=True), 1.0, threads=1)
    pixels = np.zeros((1500, 1000, 3), np.uint16)
    judge.score(pixels, pixels)
    _, peak = peak_of(lambda: judge.score(pixels, pixels))
    assert peak < 2 * pixels.nbytes // 2 + (8 << 20)


@pytest.mark.parametrize("size", [(1, 1), (1, 10**7), (10**7, 1), (3, 131_073), (24, 32), (4000, 3000)])
def test_blocks_are_small_and_cover_all(size):
    covered = 0
    for rows, columns in blocks(*size):
        pixels = (rows.stop - rows.start) * (columns.stop - columns.start)
        assert 0 < pixels <= 1 << 17
        assert rows.stop <= size[0]
        assert columns.stop <= size[1]
        covered += pixels
    assert covered == size[0] * size[1]


@pytest.mark.parametrize("depth", [8, 16])
def test_wide_images_are_read_as_others(tmp_path, depth):
    # Wider than a block.
    samples = np.random.default_rng(0).integers(0, 2**depth, (2, 140_000, 4), dtype=np.uint16)
    (tmp_path / "wide.png").write_bytes(png(samples, depth=depth, colour=6))
    (tmp_path / "high.png").write_bytes(png(samples.swapaxes(0, 1), depth=depth, colour=6))
    wide, high = read_image(tmp_path / "wide.png"), read_image(tmp_path / "high.png")
    np.testing.assert_array_equal(wide.pixels, high.pixels.swapaxes(0, 1))
    top = 2**depth - 1
    opacity = samples[..., 3:] / top
    expected = samples[..., :3] * opacity + 128 * (top // 255) * (1 - opacity)
    np.testing.assert_array_equal(wide.pixels, np.floor(expected + 0.5))
