"""PNGs that are damaged, cut off or contradict themselves: none of them has pixels."""

import struct
import sys
import zlib
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))
from gate_corpus import PHOTO, pngs
from gate_helpers import chunk, exif, png, write_metric

from pe_runtime.gate import read_image
from pe_runtime.gate.png import SIGNATURE, read_png

ATTACKS = Path(__file__).resolve().parents[1] / "attacks"
IEND = chunk(b"IEND", b"")


def save(tmp_path, data):
    path = tmp_path / "image.png"
    path.write_bytes(data)
    return path


def header(width, height, depth=8, colour=2, compression=0, filtering=0, interlace=0):
    return chunk(
        b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, compression, filtering, interlace)
    )


def rows(pixels):
    return b"".join(b"\0" + row.tobytes() for row in pixels)


def check(data):
    """What is refused before any pixel counts: the chunks, and the length of what they inflate to."""
    read_png(data).check_pixels()


WHOLE = png(PHOTO, depth=8, colour=2)
BODY = rows(PHOTO)
WIDE, HIGH = PHOTO.shape[1], PHOTO.shape[0]


def made(*, head=None, before=b"", pixels=None, end=IEND):
    """A PNG of the photograph, of which parts are replaced."""
    pixels = chunk(b"IDAT", zlib.compress(BODY)) if pixels is None else pixels
    return SIGNATURE + (header(WIDE, HIGH) if head is None else head) + before + pixels + end


def stream(data, level=6):
    return chunk(b"IDAT", zlib.compress(data, level))


def test_a_file_that_lacks_rows_does_not_pass(run_command, tmp_path):
    metric = write_metric(tmp_path / "m.onnx", threshold=0.0001)
    code, out, _ = run_command("gate", ATTACKS / "black.png", ATTACKS / "lacks_rows.png", "--metric", metric)
    assert code == 2
    assert "expected 12352 bytes of pixels in the PNG, got " in out


DAMAGED = {
    "half of the rows": (made(pixels=stream(BODY[: len(BODY) // 2])), "bytes of pixels"),
    "half of a row": (made(pixels=stream(BODY[:-50])), "bytes of pixels"),
    "one byte less": (made(pixels=stream(BODY[:-1])), "bytes of pixels"),
    "one byte more": (made(pixels=stream(BODY + b"\0")), "got more"),
    "a row more": (made(pixels=stream(BODY + BODY[-97:])), "got more"),
    "no end": (made(end=b""), "ends with IEND"),
    "no end, but something": (made(end=chunk(b"tEXt", b"x\0y")), "ends with IEND"),
    "half an end": (made(end=IEND[:6]), "ends with IEND"),
    "wrong checksum of pixels": (made(pixels=stream(BODY)[:-1] + b"!"), "wrong checksum of IDAT"),
    "wrong checksum of a text": (
        made(before=chunk(b"tEXt", b"x\0y")[:-1] + b"!"), "wrong checksum of tEXt",
    ),
    "wrong checksum of the end": (made(end=IEND[:-1] + b"!"), "wrong checksum of IEND"),
    "wrong Adler-32": (
        made(pixels=chunk(b"IDAT", zlib.compress(BODY)[:-1] + b"!")), "incorrect data check",
    ),
    "no Adler-32": (made(pixels=chunk(b"IDAT", zlib.compress(BODY)[:-4])), "bytes of pixels"),
    "bytes after the stream": (made(pixels=chunk(b"IDAT", zlib.compress(BODY) + b"x")), "bytes after it"),
    "a chunk after the stream": (made(pixels=stream(BODY) + chunk(b"IDAT", b"x")), "bytes after it"),
    "a stream after the stream": (made(pixels=stream(BODY) + stream(BODY)), "bytes after it"),
    "no pixels": (made(pixels=b""), "has pixels"),
    "IDAT apart": (
        made(pixels=stream(BODY) + chunk(b"tEXt", b"x\0y") + chunk(b"IDAT", b"")), "follow each other",
    ),
    "a long chunk": (made(before=struct.pack(">I", 1 << 31) + b"tEXt"), "all of its chunk tEXt"),
    "a chunk that reaches beyond": (made(before=struct.pack(">I", 4000) + b"tEXt"), "all of its chunk tEXt"),
    "a name with a digit": (made(before=chunk(b"te1t", b"")), "named chunks"),
    "an unknown critical chunk": (made(before=chunk(b"PIXL", b"")), "known chunks, got PIXL"),
    "a text first": (made(head=chunk(b"tEXt", b"x\0y") + header(WIDE, HIGH)), "begins with IHDR"),
    "two headers": (made(before=header(WIDE, HIGH)), "one chunk IHDR"),
    "a long header": (made(head=chunk(b"IHDR", b"\0" * 14)), "13 bytes"),
    "3 bits": (made(head=header(WIDE, HIGH, depth=3)), "known values"),
    "16-bit palette": (made(head=header(WIDE, HIGH, depth=16, colour=3)), "known values"),
    "colour type 5": (made(head=header(WIDE, HIGH, colour=5)), "known values"),
    "compression 1": (made(head=header(WIDE, HIGH, compression=1)), "known values"),
    "filter 1": (made(head=header(WIDE, HIGH, filtering=1)), "known values"),
    "interlace 2": (made(head=header(WIDE, HIGH, interlace=2)), "known values"),
    "interlaced, it says": (made(head=header(WIDE, HIGH, interlace=1)), "bytes of pixels"),
    "no width": (made(head=header(0, HIGH)), "known values"),
    "no palette": (png(PHOTO[..., 0] % 2, depth=8, colour=3), "with a palette"),
    "a palette of 4 bytes": (made(before=chunk(b"PLTE", b"1234")), "PLTE chunk of its length"),
    "a palette after the pixels": (made(end=chunk(b"PLTE", b"123") + IEND), "before its pixels"),
    "sRGB twice": (made(before=chunk(b"sRGB", b"\0") * 2), "one chunk sRGB"),
    "a short cHRM": (made(before=chunk(b"cHRM", b"\0" * 31)), "cHRM chunk of its length"),
    "gAMA after the pixels": (made(end=chunk(b"gAMA", b"\0" * 4) + IEND), "before its pixels"),
    "a damaged profile": (made(before=chunk(b"iCCP", b"x\0\0" + zlib.compress(b"p" * 99)[:-1])), "iCCP"),
    "a profile without a name": (made(before=chunk(b"iCCP", b"\0\0" + zlib.compress(b"p"))), "iCCP"),
    "a huge profile": (made(before=chunk(b"iCCP", b"x\0\0" + zlib.compress(bytes(17 << 20)))), "iCCP"),
    "tRNS of a grey": (png(PHOTO[..., 0] % 4, depth=2, colour=0, chunks=chunk(b"tRNS", b"\0\4")), "tRNS out"),
    "tRNS of a grey, high": (png(PHOTO[..., 0], depth=8, colour=0, chunks=chunk(b"tRNS", b"\1\0")), "tRNS"),
    "tRNS of RGB": (made(before=chunk(b"tRNS", b"\0\1\0\1\1\0")), "tRNS out of range"),
    "tRNS of another length": (made(before=chunk(b"tRNS", b"\0\1")), "tRNS out of range"),
    "tRNS longer than the palette": (
        png(PHOTO[..., 0] % 2, depth=8, colour=3, chunks=chunk(b"PLTE", b"123456") + chunk(b"tRNS", b"123")),
        "tRNS out of range",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", DAMAGED)
def test_damaged(tmp_path, what):
    data, message = DAMAGED[what]
    with pytest.raises(ValueError, match=message):
        read_image(save(tmp_path, data))


@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize("interlace", [0, 1])
def test_an_unknown_filter(tmp_path, depth, interlace):
    # Of the right length, and so left to the decoders.
    row = bytes([5]) + bytes(3 * depth // 8)
    head = header(1, 1, depth=depth, interlace=interlace)
    assert read_image(save(tmp_path, made(head=head, pixels=stream(bytes(len(row)))))).pixels.shape == (
        1,
        1,
        3,
    )
    with pytest.raises(ValueError, match=r"image\.png: "):
        read_image(save(tmp_path, made(head=head, pixels=stream(row))))


HARMLESS = {
    "nothing": made(),
    "trailing bytes": made() + made(),
    "many IDAT": made(pixels=b"".join(chunk(b"IDAT", part) for part in (
        b"", zlib.compress(BODY)[:9], b"", zlib.compress(BODY)[9:], b""))),
    "stored, not deflated": made(pixels=stream(BODY, 0)),
    "texts": made(before=chunk(b"zTXt", b"x\0\0damaged"), end=chunk(b"iTXt", b"y") + IEND),
    "a damaged text of XMP": made(before=chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0damaged")),
    "an unknown chunk": made(before=chunk(b"prVt", b"anything")),
    "a suggested palette": made(before=chunk(b"PLTE", bytes(range(30)))),
}  # fmt: skip


@pytest.mark.parametrize("what", HARMLESS)
def test_whole(tmp_path, what):
    np.testing.assert_array_equal(read_image(save(tmp_path, HARMLESS[what])).pixels, PHOTO)


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (3, 2), (4, 5), (5, 9), (8, 8), (13, 17)])
@pytest.mark.parametrize(("depth", "colour"), [(1, 0), (8, 2), (8, 6), (16, 2)])
def test_interlaced(tmp_path, size, depth, colour):
    # Pillow writes none. The samples of each pass are a small image of their own.
    height, width = size
    channels = {0: 1, 2: 3, 6: 4}[colour]
    shape = (height, width, channels) if channels > 1 else (height, width)
    pixels = np.random.default_rng(0).integers(0, 2**depth, shape, dtype=np.uint16)
    body = b""
    for left, top, across, down in (
        (0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)
    ):  # fmt: skip
        part = pixels[top::down, left::across]
        if part.size:
            body += zlib.decompress(png(part, depth=depth, colour=colour)[41:-16])
    head = header(width, height, depth=depth, colour=colour, interlace=1)
    image = read_image(save(tmp_path, made(head=head, pixels=stream(body))), background=(0, 0, 0))
    plain = read_image(save(tmp_path, png(pixels, depth=depth, colour=colour)), background=(0, 0, 0))
    np.testing.assert_array_equal(image.pixels, plain.pixels)
    for wrong in (body[:-1], body + b"\0"):
        with pytest.raises(ValueError, match="bytes of pixels"):
            read_image(save(tmp_path, made(head=head, pixels=stream(wrong))))


@pytest.mark.parametrize(
    ("name", "data"), list(pngs()), ids=lambda value: value if isinstance(value, str) else ""
)
def test_every_truncation_and_every_changed_byte_is_refused(name, data):
    read_png(data).check_pixels()
    changes = np.random.default_rng(len(name)).integers(1, 256, len(data))
    for at in range(len(SIGNATURE), len(data)):
        with pytest.raises(ValueError, match=r"\w"):
            check(data[:at])
        changed = bytearray(data)
        changed[at] ^= int(changes[at])
        with pytest.raises(ValueError, match=r"\w"):
            check(bytes(changed))


def test_every_value_of_every_byte_is_refused():
    data = png(PHOTO[:2, :2], depth=8, colour=2, chunks=chunk(b"tEXt", b"a\0b"))
    for at in range(len(SIGNATURE), len(data)):
        for value in range(1, 256):
            changed = bytearray(data)
            changed[at] ^= value
            with pytest.raises(ValueError, match=r"\w"):
                check(bytes(changed))


def test_the_first_bytes_are_refused_too(tmp_path):
    for at in range(len(SIGNATURE)):
        changed = bytearray(WHOLE)
        changed[at] ^= 32
        for data in (bytes(changed), WHOLE[:at]):
            with pytest.raises(ValueError, match="expected a PNG, JPEG, WebP, BMP or TIFF"):
                read_image(save(tmp_path, data))


NAMES = [b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS", b"iCCP", b"cICP", b"gAMA", b"cHRM", b"sRGB", b"eXIf",
         b"acTL", b"fcTL", b"tEXt", b"zTXt", b"iTXt", b"prVt", b"CRIT"]  # fmt: skip
CONTENTS = st.one_of(
    st.binary(max_size=40),
    st.just(header(2, 2)[8:-4]),
    st.binary(max_size=40).map(zlib.compress),
    st.binary(max_size=20).map(lambda text: b"XML:com.adobe.xmp\0\0\0\0\0" + text),
    st.binary(max_size=20).map(lambda text: b"Raw profile type exif\0" + text),
    st.just(zlib.compress(rows(np.zeros((2, 2, 3), np.uint8)))),
)


@settings(max_examples=400, deadline=None)
@given(parts=st.lists(st.tuples(st.sampled_from(NAMES), CONTENTS), max_size=8))
@example(parts=[(b"IHDR", header(2, 2)[8:-4]), (b"IDAT", zlib.compress(bytes(14)))])
def test_any_chunks(parts):
    data = SIGNATURE + b"".join(chunk(kind, content) for kind, content in parts) + IEND
    try:
        file = read_png(data)
        file.check_pixels()
    except ValueError:
        return
    assert (file.width, file.height) == (2, 2)
    assert read_png(file.plain_file()).plain_file() == file.plain_file()


@settings(max_examples=300, deadline=None)
@given(data=st.binary(max_size=200))
def test_any_bytes(data):
    with pytest.raises(ValueError, match=r"\w"):
        read_png(SIGNATURE + data)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_changes_are_refused_or_harmless(tmp_path, data):
    # With right checksums: what is left to find are contradictions.
    parts = []
    view = png(
        PHOTO[:5, :7], depth=8, colour=2, chunks=chunk(b"gAMA", b"\0\0\xb1\x8f") + chunk(b"eXIf", exif(3))
    )
    at = len(SIGNATURE)
    while at < len(view):
        (length,) = struct.unpack_from(">I", view, at)
        parts.append([view[at + 4 : at + 8], bytearray(view[at + 8 : at + 8 + length])])
        at += 12 + length
    kind, content = data.draw(st.sampled_from([part for part in parts if part[1]]))
    where = data.draw(st.integers(0, len(content) - 1))
    content[where] ^= data.draw(st.integers(1, 255))
    path = save(tmp_path, SIGNATURE + b"".join(chunk(kind, bytes(content)) for kind, content in parts))
    try:
        image = read_image(path)
    except ValueError:
        return
    assert kind != b"IDAT"
    assert image.pixels.size == 5 * 7 * 3 or kind == b"IHDR"


def test_the_16_bit_decoder_gets_no_other_chunks(tmp_path):
    # OpenCV and Pillow have their own opinions on profiles, texts and orientations.
    deep = PHOTO.astype(np.uint16) * 257
    before = b"".join(
        chunk(kind, content)
        for kind, content in (
            (b"iCCP", b"x\0\0" + zlib.compress(b"no profile")),
            (b"zTXt", b"huge\0\0" + zlib.compress(bytes(2 << 20))),
            (b"eXIf", b"damaged"),
        )
    )
    for depth, pixels in ((8, PHOTO), (16, deep)):
        image = read_image(save(tmp_path, png(pixels, depth=depth, colour=2, chunks=before)))
        np.testing.assert_array_equal(image.pixels, pixels)
        assert image.damaged_exif
        assert image.colour.icc == b"no profile"


def test_pillow_reads_what_it_wrote(tmp_path):
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"):
        path = tmp_path / "pillow.png"
        PIL.Image.fromarray(PHOTO).convert("L" if mode == "I;16" else mode).convert(mode).save(path)
        assert read_image(path).pixels.shape == PHOTO.shape
