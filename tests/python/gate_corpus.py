"""Image files of all kinds that both gates are to read alike: PNG, JPEG, and others."""

import io
import struct
import sys
import zlib
from pathlib import Path

import numpy as np
import PIL.Image

sys.path.insert(0, str(Path(__file__).parent))
from gate_helpers import chunk, exif, png, tiff

SIZE = (32, 24)
RNG = np.random.default_rng(5)
PHOTO = np.asarray(
    PIL.Image.fromarray(RNG.integers(0, 256, (8, 8, 3), dtype=np.uint8)).resize(
        SIZE, PIL.Image.Resampling.BICUBIC
    )
)
DEEP = PHOTO.astype(np.uint16) * 257 + RNG.integers(-120, 120, PHOTO.shape).astype(np.uint16) % 257
GREY, GREY16 = PHOTO[..., 1], DEEP[..., 1]
ALPHA = RNG.integers(0, 256, PHOTO.shape[:2], dtype=np.uint8)


def saved(array, suffix, **options):
    buffer = io.BytesIO()
    image = array if isinstance(array, PIL.Image.Image) else PIL.Image.fromarray(array)
    image.save(buffer, suffix, **options)
    return buffer.getvalue()


def with_alpha(array, alpha):
    return np.dstack([array, alpha.astype(array.dtype) * (257 if array.dtype == np.uint16 else 1)])


def pngs():
    indices = np.arange(SIZE[0] * SIZE[1]).reshape(SIZE[::-1])
    palette = chunk(b"PLTE", RNG.integers(0, 256, 768, dtype=np.uint8).tobytes())
    for depth in (1, 2, 4, 8, 16):
        grey = indices * 40503 % 2**depth
        yield f"grey{depth}.png", png(grey, depth=depth, colour=0)
        level = chunk(b"tRNS", struct.pack(">H", int(grey[3, 3])))
        yield f"grey{depth} level.png", png(grey, depth=depth, colour=0, chunks=level)
        if depth < 16:
            short = chunk(b"PLTE", palette[8 : 8 + 3 * 2**depth])
            yield f"palette{depth}.png", png(indices % 2**depth, depth=depth, colour=3, chunks=short)
            clear = short + chunk(b"tRNS", bytes([0, 77]))
            yield f"palette{depth} clear.png", png(indices % 2**depth, depth=depth, colour=3, chunks=clear)
    for depth, rgb in ((8, PHOTO), (16, DEEP)):
        yield f"rgb{depth}.png", png(rgb, depth=depth, colour=2)
        yield f"rgba{depth}.png", png(with_alpha(rgb, ALPHA), depth=depth, colour=6)
        yield f"la{depth}.png", png(with_alpha(rgb[..., 0], ALPHA), depth=depth, colour=4)
        colour = chunk(b"tRNS", struct.pack(">3H", *rgb[5, 6].tolist()))
        yield f"rgb{depth} colour.png", png(rgb, depth=depth, colour=2, chunks=colour)
        for orientation in range(10):
            block = chunk(b"eXIf", exif(orientation))
            yield f"rgb{depth} turned{orientation}.png", png(rgb, depth=depth, colour=2, chunks=block)
    yield "icc.png", png(PHOTO, depth=8, colour=2, chunks=chunk(b"iCCP", b"x\0\0" + zlib.compress(profile())))
    xmp = b'XML:com.adobe.xmp\0\0\0\0\0<x tiff:Orientation="6"/>'
    yield "xmp.png", png(PHOTO, depth=8, colour=2, chunks=chunk(b"iTXt", xmp))
    raw = b"Raw profile type exif\0\0" + zlib.compress(
        b"\nexif\n" + str(len(exif(8))).encode() + b"\n" + exif(8).hex().encode()
    )
    yield "raw profile.png", png(PHOTO, depth=8, colour=2, chunks=chunk(b"zTXt", raw))
    interlaced = io.BytesIO()
    PIL.Image.fromarray(PHOTO).save(interlaced, "PNG", optimize=True)
    yield "optimised.png", interlaced.getvalue()
    animation = io.BytesIO()
    frames = [PIL.Image.fromarray(PHOTO), PIL.Image.fromarray(255 - PHOTO)]
    frames[0].save(animation, "PNG", save_all=True, append_images=frames[1:])
    yield "animation.apng", animation.getvalue()


def profile():
    from PIL import ImageCms

    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def profiles():
    """ICC profiles by name: of RGB, grey and CMYK, and damaged."""
    srgb = profile()
    yield "sRGB", srgb
    swapped = bytearray(srgb)
    red, blue = srgb.find(b"rXYZ"), srgb.find(b"bXYZ")
    swapped[red : red + 4], swapped[blue : blue + 4] = b"bXYZ", b"rXYZ"
    yield "red and blue", bytes(swapped)
    yield "gamma", matrix_profile(gamma=1.8)
    yield "table", matrix_profile(gamma=None)
    yield "grey", grey_profile(gamma=1.0)
    yield "cmyk", srgb[:16] + b"CMYK" + srgb[20:]
    yield "damaged", srgb[: len(srgb) // 2]
    yield "no profile", b"no profile"


def matrix_profile(*, gamma):
    """A profile of Adobe RGB's primaries (nearly), with a gamma or, for None, a table of 64 values."""
    xyz = {
        b"rXYZ": (0.6097, 0.3111, 0.0195),
        b"gXYZ": (0.2053, 0.6257, 0.0609),
        b"bXYZ": (0.1492, 0.0632, 0.7446),
    }
    return icc(
        b"RGB ",
        {
            **{tag: fixed(*value) for tag, value in xyz.items()},
            **{tag: curve(gamma) for tag in (b"rTRC", b"gTRC", b"bTRC")},
        },
    )


def grey_profile(*, gamma):
    return icc(b"GRAY", {b"kTRC": curve(gamma)})


def fixed(*values):
    return b"XYZ \0\0\0\0" + struct.pack(f">{len(values)}i", *(round(value * 65536) for value in values))


def curve(gamma):
    if gamma is not None:
        return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256)) + b"\0\0"
    values = [round(65535 * (i / 63) ** 2.4) for i in range(64)]
    return b"curv\0\0\0\0" + struct.pack(">I64H", 64, *values)


def icc(space, tags):
    """An ICC profile (version 2.1) of a display; white is D50."""
    tags = {b"wtpt": fixed(0.9642, 1.0, 0.8249), **tags}
    table, body = struct.pack(">I", len(tags)), b""
    start = 128 + 4 + 12 * len(tags)
    for tag, content in tags.items():
        table += tag + struct.pack(">II", start + len(body), len(content))
        body += content
    header = struct.pack(">I4s4s4s4s4s", start + len(body), b"test", b"\2\x10\0\0", b"mntr", space, b"XYZ ")
    header += struct.pack(">6H", 2026, 1, 1, 0, 0, 0) + b"acsp" + bytes(28) + fixed(0.9642, 1.0, 0.8249)[8:]
    return header.ljust(128, b"\0") + table + body


def adam7(depth, colour):
    """An interlaced PNG of random samples."""
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    indices = np.arange(SIZE[0] * SIZE[1] * channels).reshape(SIZE[1], SIZE[0], channels)
    samples = indices * 40503 % 2 ** min(depth, 16)
    header = struct.pack(">IIBBBBB", *SIZE, depth, colour, 0, 0, 1)
    palette = chunk(b"PLTE", bytes(range(3 * 2**depth))) if colour == 3 else b""
    passes = (
        (0, 0, 8, 8),
        (4, 0, 8, 8),
        (0, 4, 4, 8),
        (2, 0, 4, 4),
        (0, 2, 2, 4),
        (1, 0, 2, 2),
        (0, 1, 1, 2),
    )
    lines = b""
    for left, top, across, down in passes:
        for row in samples[top::down, left::across]:
            lines += b"\0" + packed(row.reshape(-1), depth)
    pixels = chunk(b"IDAT", zlib.compress(lines))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + palette + pixels + chunk(b"IEND", b"")


def packed(samples, depth):
    if depth == 16:
        return samples.astype(">u2").tobytes()
    if depth == 8:
        return samples.astype(np.uint8).tobytes()
    bits = np.unpackbits(samples.astype(np.uint8)[:, None], axis=1)[:, 8 - depth :]
    return np.packbits(bits.reshape(-1)).tobytes()


def jpegs():
    image = PIL.Image.fromarray(PHOTO)
    for subsampling in (0, 1, 2):
        for progressive in (False, True):
            options = {"quality": 83, "subsampling": subsampling, "progressive": progressive}
            yield f"s{subsampling} p{progressive}.jpg", saved(image, "JPEG", **options)
    yield "grey.jpg", saved(GREY, "JPEG")
    yield "cmyk.jpg", saved(image.convert("CMYK"), "JPEG", quality=90)
    yield "icc.jpg", saved(image, "JPEG", icc_profile=profile())
    yield "restart.jpg", saved(image, "JPEG", restart_marker_blocks=2)
    odd = PIL.Image.fromarray(PHOTO[:23, :31])
    yield "odd.jpg", saved(odd, "JPEG", subsampling=2)
    for orientation in range(1, 9):
        yield f"turned{orientation}.jpg", saved(image, "JPEG", exif=b"Exif\0\0" + exif(orientation))
    yield "xmp.jpg", saved(image, "JPEG", xmp=b"<tiff:Orientation>3</tiff:Orientation>")
    several = io.BytesIO()
    image.save(several, "MPO", save_all=True, append_images=[PIL.Image.fromarray(255 - PHOTO)])
    yield "several.mpo", several.getvalue()
    yield "without end.jpg", saved(image, "JPEG")[:-2]


def others():
    image = PIL.Image.fromarray(PHOTO)
    rgba = PIL.Image.fromarray(with_alpha(PHOTO, ALPHA))
    for name, options in {"lossy": {"quality": 70}, "lossless": {"lossless": True, "exact": True}}.items():
        yield f"{name}.webp", saved(image, "WEBP", **options)
        yield f"{name} alpha.webp", saved(rgba, "WEBP", **options)
    yield (
        "turned.webp",
        saved(image, "WEBP", lossless=True, exif=b"Exif\0\0" + exif(5), icc_profile=profile()),
    )
    animation = io.BytesIO()
    image.save(animation, "WEBP", save_all=True, append_images=[rgba])
    yield "animation.webp", animation.getvalue()

    yield "rgb.bmp", saved(image, "BMP")
    yield "grey.bmp", saved(GREY, "BMP")
    yield "palette.bmp", saved(image.quantize(16), "BMP")
    yield "bits.bmp", saved(image.convert("1"), "BMP")
    yield "alpha.bmp", saved(rgba, "BMP")
    top_down = bytearray(saved(image, "BMP"))
    top_down[22:26] = struct.pack("<i", -SIZE[1])
    yield "top down.bmp", bytes(top_down)
    yield "fields.dib", bitmap(0xF800, 0x7E0, 0x1F)
    yield "fields5.bmp", bitmap(0x7C00, 0x3E0, 0x1F)

    for compression in (None, "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg", "tiff_jpeg"):
        if compression != "tiff_jpeg":
            yield f"rgb {compression}.tif", saved(image, "TIFF", compression=compression)
        if compression not in ("jpeg", "tiff_jpeg"):
            yield f"rgba {compression}.tif", saved(rgba, "TIFF", compression=compression)
            yield f"palette {compression}.tif", saved(image.quantize(30), "TIFF", compression=compression)
            yield f"cmyk {compression}.tif", saved(image.convert("CMYK"), "TIFF", compression=compression)
            yield f"bits {compression}.tif", saved(image.convert("1"), "TIFF", compression=compression)
            grey16 = PIL.Image.fromarray(GREY16)
            yield f"grey16 {compression}.tif", saved(grey16, "TIFF", compression=compression)
    yield "fax.tif", saved(image.convert("1"), "TIFF", compression="group4")
    for compression in ("tiff_lzw", "jpeg"):
        yield f"ycbcr {compression}.tif", saved(image.convert("YCbCr"), "TIFF", compression=compression)
    yield "icc.tif", saved(image, "TIFF", icc_profile=profile())
    for depth, rgb in ((8, PHOTO), (16, DEEP)):
        for extra in (None, 0, 1, 2):
            samples = with_alpha(rgb, ALPHA)
            if extra == 1:
                samples[..., :3] = np.minimum(samples[..., :3], samples[..., 3:])
            yield f"extra{extra} {depth}.tif", tiff(samples, {} if extra is None else {338: extra})
        for white in (0, 1):
            yield f"white{white} {depth}.tif", tiff(rgb[..., 0], {262: white})
        yield f"la {depth}.tif", tiff(with_alpha(rgb[..., 0], ALPHA), {338: 2, 262: 1})
        for orientation in range(1, 9):
            yield f"turned{orientation} {depth}.tif", tiff(rgb, {274: orientation})
        planes = np.moveaxis(rgb, 2, 0)
        yield f"planar {depth}.tif", planar_tiff(planes)
    pages = io.BytesIO()
    image.save(pages, "TIFF", save_all=True, append_images=[image])
    yield "pages.tif", pages.getvalue()
    yield "float.tif", tiff(GREY.astype(np.float32), {339: 3})
    yield "signed.tif", tiff(GREY16.view(np.int16), {339: 2})
    yield "text.png", b"hello"
    yield "empty.png", b""
    yield "gif.png", saved(image, "GIF")
    for name, data in (
        ("rgb.png", saved(image, "PNG")),
        ("rgb.jpg", saved(image, "JPEG")),
        ("rgb.webp", saved(image, "WEBP")),
        ("rgb.bmp", saved(image, "BMP")),
        ("rgb.tif", saved(image, "TIFF")),
        ("lzw.tif", saved(image, "TIFF", compression="tiff_lzw")),
    ):
        yield f"truncated {name}", data[: len(data) * 2 // 3]


def bitmap(*masks):
    pixels = RNG.integers(0, 65536, (SIZE[1], SIZE[0]), dtype=np.uint16).astype("<u2").tobytes()
    offset = 14 + 40 + 12
    header = struct.pack("<IiiHHIIiiII", 40, *SIZE, 1, 16, 3, len(pixels), 0, 0, 0, 0)
    return (
        struct.pack("<2sIII", b"BM", offset + len(pixels), 0, offset)
        + header
        + struct.pack("<3I", *masks)
        + pixels
    )


def planar_tiff(planes):
    """A TIFF of three planes, one strip each."""
    count, height, width = planes.shape
    size = height * width * planes.dtype.itemsize
    offsets = [8 + i * size for i in range(count)]
    tags = {258: [planes.dtype.itemsize * 8] * 3, 262: 2, 273: offsets, 277: 3, 279: [size] * 3, 284: 2}
    return tiff(planes.reshape(count * height, width), {**tags, 257: height, 278: height})
