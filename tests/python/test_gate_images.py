import io
import os
import struct
import sys
from pathlib import Path

import numpy as np
import PIL.Image
import PIL.ImageOps
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

sys.path.insert(0, str(Path(__file__).parent))
from gate_helpers import chunk, exif, png, tiff

from pe_runtime.gate import as_float, parse_background, read_image

SETTINGS = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
COLOURS = st.tuples(*[st.integers(0, 255)] * 3)


def arrays(channels, depth):
    shape = st.tuples(st.integers(1, 9), st.integers(1, 9), st.just(channels))
    return shape.flatmap(lambda s: hnp.arrays(np.uint8 if depth == 8 else np.uint16, s))


def over(rgb, alpha, background, top):
    """Compositing as the textbook has it; exact enough in float64, for top is odd and nothing is halfway."""
    behind = np.array(background, dtype=np.float64) * (top // 255)
    opacity = alpha[..., None] / np.float64(top)
    return np.floor(rgb * opacity + behind * (1 - opacity) + 0.5)


def save(tmp_path, data, name="image"):
    path = tmp_path / name
    path.write_bytes(data)
    return path


def encoded(array, file_format, **options):
    buffer = io.BytesIO()
    image = array if isinstance(array, PIL.Image.Image) else PIL.Image.fromarray(array)
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def photo(height=24, width=32):
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([x * 7 % 256, y * 9 % 256, (x + y) * 4 % 256], axis=2).astype(np.uint8)


@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize(("colour", "channels"), [(0, 1), (2, 3), (4, 2), (6, 4)])
@SETTINGS
@given(data=st.data(), background=COLOURS)
def test_png_samples(tmp_path, depth, colour, channels, data, background):
    array = data.draw(arrays(channels, depth))
    image = read_image(save(tmp_path, png(array, depth=depth, colour=colour)), background=background)
    rgb = array[..., :3] if channels > 2 else array[..., :1].repeat(3, axis=2)
    if colour in (4, 6):
        rgb = over(rgb, array[..., -1], background, 2**depth - 1)
    assert image.pixels.dtype == array.dtype
    np.testing.assert_array_equal(image.pixels, rgb)
    assert (image.format, image.bits, image.alpha) == ("PNG", depth, colour in (4, 6))


@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize("extra", [None, 0, 1, 2])
@SETTINGS
@given(data=st.data(), background=COLOURS)
def test_tiff_samples(tmp_path, depth, extra, data, background):
    array = data.draw(arrays(3 if extra is None else 4, depth))
    rgb, top = array[..., :3], 2**depth - 1
    if extra == 1:  # premultiplied: samples are at most alpha
        if depth == 8:  # where Pillow divides by alpha first; opaque or clear pixels show no rounding
            array[..., 3] = np.where(array[..., 3] < 128, 0, top)
        array[..., :3] = np.minimum(rgb, array[..., 3:])
        alpha = array[..., 3:] / np.float64(top)
        rgb = np.floor(array[..., :3] + np.array(background) * (top // 255) * (1 - alpha) + 0.5)
    elif extra == 2:
        rgb = over(rgb, array[..., 3], background, top)
    tags = {} if extra is None else {338: extra}
    image = read_image(save(tmp_path, tiff(array, tags)), background=background)
    np.testing.assert_array_equal(image.pixels, rgb)
    assert (image.format, image.bits, image.alpha) == ("TIFF", depth, extra in (1, 2))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("white_is_zero", [False, True])
def test_tiff_grey(tmp_path, dtype, white_is_zero):
    grey = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, (5, 7), dtype=dtype, endpoint=True)
    image = read_image(save(tmp_path, tiff(grey, {262: 0 if white_is_zero else 1})))
    expected = np.iinfo(dtype).max - grey if white_is_zero else grey
    np.testing.assert_array_equal(image.pixels, expected[..., None].repeat(3, axis=2))


@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
def test_png_grey_with_a_transparent_level(tmp_path, depth):
    top = 2**depth - 1
    grey = np.arange(64).reshape(4, 16) * 1021 % (top + 1)
    level = int(grey[1, 3])
    chunks = chunk(b"tRNS", struct.pack(">H", level))
    image = read_image(save(tmp_path, png(grey, depth=depth, colour=0, chunks=chunks)), background=(9, 8, 7))
    scale = 1 if depth == 16 else 255 // top
    expected = (grey * scale)[..., None].repeat(3, axis=2)
    expected[grey == level] = np.array([9, 8, 7]) * (257 if depth == 16 else 1)
    np.testing.assert_array_equal(image.pixels, expected)
    assert image.alpha
    assert image.bits == depth


@pytest.mark.parametrize("depth", [8, 16])
def test_png_rgb_with_a_transparent_colour(tmp_path, depth):
    array = np.arange(60).reshape(4, 5, 3) * (3 if depth == 8 else 1000)
    chunks = chunk(b"tRNS", struct.pack(">3H", *array[2, 2].tolist()))
    image = read_image(save(tmp_path, png(array, depth=depth, colour=2, chunks=chunks)), background=(0, 0, 0))
    expected = array.copy()
    expected[2, 2] = 0
    np.testing.assert_array_equal(image.pixels, expected)


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_png_palette(tmp_path, depth):
    indices = np.arange(24).reshape(3, 8) % 2**depth
    palette = np.random.default_rng(1).integers(0, 256, (2**depth, 3), dtype=np.uint8)
    plain = chunk(b"PLTE", palette.tobytes())
    image = read_image(save(tmp_path, png(indices, depth=depth, colour=3, chunks=plain)))
    np.testing.assert_array_equal(image.pixels, palette[indices])
    clear = plain + chunk(b"tRNS", b"\x00")  # the first colour
    image = read_image(
        save(tmp_path, png(indices, depth=depth, colour=3, chunks=clear)), background=(1, 2, 3)
    )
    palette[0] = (1, 2, 3)
    np.testing.assert_array_equal(image.pixels, palette[indices])


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "PNG16", "TIFF", "TIFF16", "JPEG", "WEBP"])
def test_orientation(tmp_path, kind, orientation):
    stored = photo()
    block = exif(orientation)
    if kind.startswith("PNG"):
        scaled = stored if kind == "PNG" else stored.astype(np.uint16) * 257
        data = png(scaled, depth=8 if kind == "PNG" else 16, colour=2, chunks=chunk(b"eXIf", block))
    elif kind.startswith("TIFF"):
        scaled = stored if kind == "TIFF" else stored.astype(np.uint16) * 257
        data = tiff(scaled, {274: orientation})
    else:
        data = encoded(
            stored, kind, exif=b"Exif\0\0" + block, **({"lossless": True} if kind == "WEBP" else {})
        )
    image = read_image(save(tmp_path, data))
    # The oracle is Pillow's own transposition, of an image that has nothing else to go wrong.
    plain = stored if kind != "JPEG" else np.asarray(PIL.Image.open(io.BytesIO(encoded(stored, "JPEG"))))
    seen = PIL.Image.fromarray(plain)
    seen.getexif()[274] = orientation
    expected = np.asarray(PIL.ImageOps.exif_transpose(seen))
    if kind.endswith("16"):
        expected = expected.astype(np.uint16) * 257
    np.testing.assert_array_equal(image.pixels, expected)
    assert image.orientation == orientation
    assert image.pixels.flags.c_contiguous


@pytest.mark.parametrize("orientation", [0, 9, 4000])
def test_orientation_out_of_range_is_upright(tmp_path, orientation):
    data = png(photo(), depth=8, colour=2, chunks=chunk(b"eXIf", exif(orientation)))
    np.testing.assert_array_equal(read_image(save(tmp_path, data)).pixels, photo())


@pytest.mark.parametrize("depth", [8, 16])
def test_orientation_of_xmp_counts_without_exif(tmp_path, depth):
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    text = chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp)
    stored = photo().astype(np.uint16) * (1 if depth == 8 else 257)
    image = read_image(save(tmp_path, png(stored, depth=depth, colour=2, chunks=text)))
    np.testing.assert_array_equal(image.pixels, np.rot90(stored, -1))
    both = read_image(
        save(tmp_path, png(stored, depth=depth, colour=2, chunks=text + chunk(b"eXIf", exif(3))))
    )
    np.testing.assert_array_equal(both.pixels, stored[::-1, ::-1])


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "WEBP", "BMP", "TIFF"])
@pytest.mark.parametrize("name", ["right", "wrong.gif", "wrong.png", "wrong.jpg"])
def test_the_content_decides_the_format(tmp_path, file_format, name):
    image = read_image(save(tmp_path, encoded(photo(), file_format), name))
    assert image.format == file_format
    error = np.abs(image.pixels.astype(int) - photo()).mean()
    assert error < (12 if file_format in ("JPEG", "WEBP") else 1e-9)


@pytest.mark.parametrize(
    ("file_format", "mode"),
    [("JPEG", mode) for mode in ("L", "CMYK", "YCbCr")]
    + [("TIFF", mode) for mode in ("1", "L", "P", "CMYK")]
    + [("BMP", mode) for mode in ("1", "L", "P")]
    + [("WEBP", mode) for mode in ("L", "P")],
)
def test_pixel_layouts(tmp_path, mode, file_format):
    data = encoded(PIL.Image.fromarray(photo()).convert(mode), file_format)
    with PIL.Image.open(io.BytesIO(data)) as file:
        expected = np.asarray(file.convert("RGB"))
    np.testing.assert_array_equal(read_image(save(tmp_path, data)).pixels, expected)


def test_the_first_image_of_an_mpo_is_read(tmp_path):
    second = PIL.Image.fromarray(photo()[::-1])
    image = read_image(save(tmp_path, encoded(photo(), "MPO", save_all=True, append_images=[second])))
    assert image.format == "MPO"
    expected = np.asarray(PIL.Image.open(io.BytesIO(encoded(photo(), "JPEG"))))
    np.testing.assert_array_equal(image.pixels, expected)


def test_icc_profile_is_reported_and_not_applied(tmp_path):
    image = read_image(save(tmp_path, encoded(photo(), "PNG", icc_profile=b"not even a profile")))
    np.testing.assert_array_equal(image.pixels, photo())
    assert image.icc is not None
    assert read_image(save(tmp_path, encoded(photo(), "PNG"))).icc is None


def animation(file_format):
    frames = [PIL.Image.fromarray(np.roll(photo(), step, axis=0)) for step in range(3)]
    return encoded(frames[0], file_format, save_all=True, append_images=frames[1:])


GREY16 = np.arange(48, dtype=np.uint16).reshape(6, 8)
REFUSED = {
    "animated PNG": (lambda: animation("PNG"), "single image"),
    "animated WebP": (lambda: animation("WEBP"), "single image"),
    "TIFF of pages": (lambda: animation("TIFF"), "single image"),
    "GIF": (lambda: encoded(photo(), "GIF"), "expected a PNG, JPEG, WebP, BMP or TIFF"),
    "text": (lambda: b"hello", "expected a PNG, JPEG, WebP, BMP or TIFF"),
    "empty": (lambda: b"", "expected a PNG, JPEG, WebP, BMP or TIFF"),
    "float TIFF": (lambda: tiff(GREY16.astype(np.float32), {339: 3}), "unsigned integer samples"),
    "signed TIFF": (lambda: tiff(GREY16.view(np.int16), {339: 2}), "unsigned integer samples"),
    "32-bit TIFF": (lambda: tiff(GREY16.astype(np.uint32)), "8 or 16 bits"),
    "CMYK 16-bit TIFF": (lambda: tiff(np.zeros((4, 5, 4), np.uint16), {262: 5}), "interleaved"),
    "no pixels": (lambda: png(np.zeros((0, 5)), depth=8, colour=0), "expected a PNG"),
    "bad checksum": (
        lambda: png(photo(), depth=8, colour=2).replace(b"IDAT", b"IDAT!"),
        "wrong checksum",
    ),
    "pixels elsewhere": (lambda: tiff(GREY16, {273: 1_000_000}), "truncated"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_refused(tmp_path, what):
    make, message = REFUSED[what]
    path = save(tmp_path, make())
    with pytest.raises(ValueError, match=message) as caught:
        read_image(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "BytesIO" not in str(caught.value)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize("kind", ["PNG", "PNG16", "JPEG", "WEBP", "BMP", "TIFF", "TIFF16", "TIFF16 lzw"])
@pytest.mark.parametrize("keep", [0.1, 0.5, 0.9])
def test_truncated(tmp_path, kind, keep):
    # Noise, so that no tail of the file is redundant.
    noise = np.random.default_rng(2).integers(0, 65536, (64, 64, 3), dtype=np.uint16)
    if kind == "PNG16":
        data = png(noise, depth=16, colour=2)
    elif kind == "TIFF16":
        data = tiff(noise)
    elif kind == "TIFF16 lzw":
        cv2 = pytest.importorskip("cv2")
        data = cv2.imencode(".tiff", noise)[1].tobytes()
    else:
        data = encoded((noise >> 8).astype(np.uint8), kind)
    assert read_image(save(tmp_path, data)).pixels.shape == (64, 64, 3)
    with pytest.raises(ValueError, match="image: "):
        read_image(save(tmp_path, data[: int(len(data) * keep)]))


@pytest.mark.parametrize("factor", [1.5, 3])
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_too_many_pixels(tmp_path, monkeypatch, factor):
    path = save(tmp_path, encoded(photo(), "PNG"))
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", int(photo().size / 3 / factor))
    with pytest.raises(ValueError, match="pixels"):
        read_image(path)


def test_what_is_no_file(tmp_path):
    with pytest.raises(ValueError, match="not a file"):
        read_image(tmp_path)
    with pytest.raises(FileNotFoundError):
        read_image(tmp_path / "missing.png")
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.png")
        with pytest.raises(ValueError, match="not a file"):
            read_image(tmp_path / "pipe.png")


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_as_float(dtype):
    top = np.iinfo(dtype).max
    values = np.arange(0, top + 1, top // 255, dtype=np.uint32).astype(dtype)
    pixels = np.stack([values.reshape(16, 16)] * 3, axis=2)
    pixels[..., 1] = 0
    planar = as_float(pixels)
    assert planar.shape == (3, 16, 16)
    assert planar.dtype == np.float32
    assert planar.flags.c_contiguous
    # The nearest float32 to the quotient, for every value.
    np.testing.assert_array_equal(planar[0].ravel(), (values / np.float64(top)).astype(np.float32))
    assert not planar[1].any()
    assert planar.min() == 0
    assert planar.max() == 1


def test_as_float_refuses_floats():
    with pytest.raises(TypeError, match="pixels: expected uint8 or uint16"):
        as_float(np.zeros((4, 4, 3)))


def test_parse_background():
    assert parse_background("white") == (255, 255, 255)
    assert parse_background("#102030") == (16, 32, 48)
    with pytest.raises(ValueError, match="background: expected a colour"):
        parse_background("mauve-ish")
