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


def swapped_profile():
    """sRGB whose first sample is blue and whose third is red."""
    data = bytearray(profile())
    red, blue = data.find(b"rXYZ"), data.find(b"bXYZ")
    data[red : red + 4], data[blue : blue + 4] = b"bXYZ", b"rXYZ"
    return bytes(data)


def bare_profile(space, gamma=1.0):
    """An ICC profile of version 2 with a white point and one tone curve, which suits grey."""
    curve = struct.pack(">4sIIHxx", b"curv", 0, 1, round(gamma * 256))
    white = struct.pack(">4sI3i", b"XYZ ", 0, 63190, 65536, 54061)
    tags = [(b"wtpt", white), (b"kTRC", curve)]
    table, body, at = struct.pack(">I", len(tags)), b"", 128 + 4 + 12 * len(tags)
    for name, data in tags:
        table += struct.pack(">4sII", name, at + len(body), len(data))
        body += data
    header = bytearray(128)
    struct.pack_into(">I4xI4s4s4s", header, 0, at + len(body), 0x02100000, b"mntr", space, b"XYZ ")
    header[36:40] = b"acsp"
    struct.pack_into(">3i", header, 68, 63190, 65536, 54061)
    return bytes(header) + table + body


def chrm(*numbers):
    return chunk(b"cHRM", struct.pack(">8I", *numbers))


def icc(data):
    return chunk(b"iCCP", b"x\0\0" + zlib.compress(data))


SRGB_CHRM = (31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000)
BLUE_FIRST_CHRM = (31270, 32900, 15000, 6000, 30000, 60000, 64000, 33000)
COLOUR_CHUNKS = {
    "srgb": chunk(b"sRGB", b"\0"),
    "gamma 1": chunk(b"gAMA", struct.pack(">I", 100000)),
    "gamma sRGB": chunk(b"gAMA", struct.pack(">I", 45455)),
    "gamma near": chunk(b"gAMA", struct.pack(">I", 45955)),
    "gamma not near": chunk(b"gAMA", struct.pack(">I", 45956)),
    "chrm sRGB": chrm(*SRGB_CHRM),
    "chrm": chrm(*BLUE_FIRST_CHRM),
    "chrm sRGB gamma 1": chrm(*SRGB_CHRM) + chunk(b"gAMA", struct.pack(">I", 100000)),
    "chrm gamma sRGB": chrm(*BLUE_FIRST_CHRM) + chunk(b"gAMA", struct.pack(">I", 45455)),
    "cicp sRGB": chunk(b"cICP", bytes([1, 13, 0, 1])),
    "cicp PQ": chunk(b"cICP", bytes([9, 16, 0, 1])),
    "cicp PQ, srgb": chunk(b"cICP", bytes([9, 16, 0, 1])) + chunk(b"sRGB", b"\0"),
    "srgb, gamma 1": chunk(b"sRGB", b"\0") + chunk(b"gAMA", struct.pack(">I", 100000)),
    "icc sRGB": icc(profile()),
    "icc swapped": icc(swapped_profile()),
    "icc grey": icc(bare_profile(b"GRAY")),
    "icc CMYK": icc(bare_profile(b"CMYK")),
    "icc damaged": icc(b"no profile"),
    "icc sRGB, gamma 1": icc(profile()) + chunk(b"gAMA", struct.pack(">I", 100000)),
}


def coloured():
    """PNGs that describe their colours, of all kinds of pixels."""
    for name, chunks in COLOUR_CHUNKS.items():
        yield f"rgb {name}.png", png(PHOTO, depth=8, colour=2, chunks=chunks)
        yield f"grey {name}.png", png(GREY, depth=8, colour=0, chunks=chunks)
        yield f"rgba {name}.png", png(with_alpha(PHOTO, ALPHA), depth=8, colour=6, chunks=chunks)
        yield f"rgb16 {name}.png", png(DEEP, depth=16, colour=2, chunks=chunks)
        yield f"grey16 {name}.png", png(GREY16, depth=16, colour=0, chunks=chunks)
        yield f"la16 {name}.png", png(with_alpha(GREY16, ALPHA), depth=16, colour=4, chunks=chunks)
    image = PIL.Image.fromarray(PHOTO)
    swapped = swapped_profile()
    yield "swapped.jpg", saved(image, "JPEG", icc_profile=swapped)
    yield "grey swapped.jpg", saved(GREY, "JPEG", icc_profile=swapped)
    yield "cmyk swapped.jpg", saved(image.convert("CMYK"), "JPEG", icc_profile=swapped)
    yield "swapped.webp", saved(image, "WEBP", lossless=True, icc_profile=swapped)
    yield "swapped.tif", saved(image, "TIFF", icc_profile=swapped)
    for depth, rgb in ((8, PHOTO), (16, DEEP)):
        samples = with_alpha(rgb, ALPHA)
        samples[..., :3] = np.minimum(samples[..., :3], samples[..., 3:])
        for extra in (1, 2):
            data = tiff(samples, {338: extra, 34675: list(swapped)}, byte_tags=(34675,))
            yield f"extra{extra} {depth} swapped.tif", data


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


def exif_block(entries, order="<", at=8, count=None):
    """An EXIF block of entries (tag, type, count, four bytes of value); another count may be claimed."""
    start = (b"II" if order == "<" else b"MM") + struct.pack(order + "HI", 42, at)
    body = b"".join(struct.pack(order + "HHI", *entry[:3]) + entry[3] for entry in entries)
    return (
        start.ljust(8, b"\0")
        + struct.pack(order + "H", len(entries) if count is None else count)
        + body
        + struct.pack(order + "I", 0)
    )


def value(number, kind, order="<"):
    """The four bytes of a value."""
    form = {1: "B", 2: "B", 3: "H", 4: "I", 6: "b", 7: "B", 8: "h", 9: "i"}[kind]
    return struct.pack(order + form, number).ljust(4, b"\0")


#: EXIF blocks, the orientation that each has, and whether it is damaged.
EXIF = {
    **{
        f"type {kind} {order}": (
            exif_block([(274, kind, 1, value(3, kind, order))], order), 3 if kind in (1, 3, 4) else 1, False
        )
        for kind in (1, 2, 3, 4, 6, 7, 8, 9)
        for order in "<>"
    },
    "count 2": (exif_block([(274, 3, 2, value(3, 3))]), 1, False),
    "count 0": (exif_block([(274, 3, 0, value(3, 3))]), 1, False),
    "value 9": (exif_block([(274, 3, 1, value(9, 3))]), 1, False),
    "value 65536 + 3": (exif_block([(274, 4, 1, value(65539, 4))]), 1, False),
    "twice": (exif_block([(274, 3, 1, value(3, 3)), (274, 3, 1, value(2, 3))]), 3, False),
    "twice, the first bad": (exif_block([(274, 3, 2, value(3, 3)), (274, 3, 1, value(3, 3))]), 1, False),
    "after others": (exif_block([(271, 2, 4, b"abc\0"), (274, 3, 1, value(3, 3))]), 3, False),
    "none": (exif_block([(271, 2, 4, b"abc\0")]), 1, False),
    "no entries": (exif_block([]), 1, False),
    "prefix": (b"Exif\0\0" + exif(3), 3, False),
    "two prefixes": (b"Exif\0\0" * 2 + exif(3), 3, False),
    "three prefixes": (b"Exif\0\0" * 3 + exif(3), 1, True),
    "header II+": (exif(3).replace(b"*", b"+", 1), 1, True),
    "header II*2": (exif(3).replace(b"*\0", b"*\2", 1), 1, True),
    "big header": (b"MM\0*" + exif(3)[4:], 1, True),
    "no header": (b"x" * 30, 1, True),
    "four bytes": (b"II*\0", 1, True),
    "cut in the entry": (exif(3)[:20], 1, True),
    "cut after the entry": (exif(3)[:22], 3, False),
    "directory beyond": (exif_block([(274, 3, 1, value(3, 3))], at=500), 1, True),
    "too many entries": (exif_block([(274, 3, 1, value(3, 3))], count=3), 1, True),
}  # fmt: skip

#: XMP packets, and the orientation that each has.
XMP = {
    "double quotes": (b'<x tiff:Orientation="3"/>', 3),
    "single quotes": (b"<x tiff:Orientation='3'/>", 3),
    "spaces": (b"<x tiff:Orientation = \r\n\t '3'/>", 3),
    "element": (b"<tiff:Orientation>3</tiff:Orientation>", 3),
    "element with spaces": (b"<tiff:Orientation >\n 3\n</tiff:Orientation>", 3),
    "no quotes": (b"<x tiff:Orientation=3/>", 1),
    "value 0": (b'<x tiff:Orientation="0"/>', 1),
    "value 9, then 3": (b'<x tiff:Orientation="9"/><y tiff:Orientation="3"/>', 3),
    "two digits": (b'<x tiff:Orientation="32"/>', 3),
    "empty, then 3": (b"<x tiff:Orientation=''/><y tiff:Orientation='3'/>", 3),
    "vertical tab": (b"<x tiff:Orientation\x0b='3'/>", 1),
    "another name": (b"<x exif:Orientation='3'/>", 1),
    "bytes": (b"\xff\0tiff:Orientation='3'\0", 3),
}


def oriented():
    """Files whose metadata say which way up they are, rightly and wrongly."""
    image = PIL.Image.fromarray(PHOTO)
    for name, (block, _, _) in EXIF.items():
        yield f"exif {name}.png", png(PHOTO, depth=8, colour=2, chunks=chunk(b"eXIf", block))
        # Pillow takes one prefix away.
        yield f"exif {name}.webp", saved(image, "WEBP", lossless=True, exif=b"Exif\0\0" + block)
        jpeg = saved(image, "JPEG", quality=90)
        if not block.startswith(b"Exif"):
            block = b"Exif\0\0" + block
        marker = b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block
        yield f"exif {name}.jpg", jpeg[:2] + marker + jpeg[2:]
    for name, (packet, _) in XMP.items():
        text = chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + packet)
        yield f"xmp {name}.png", png(PHOTO, depth=8, colour=2, chunks=text)
        both = text + chunk(b"eXIf", exif_block([]))
        yield f"xmp {name}, exif without.png", png(PHOTO, depth=8, colour=2, chunks=both)
        yield f"xmp {name}.jpg", saved(image, "JPEG", xmp=packet)
        yield f"xmp {name}.webp", saved(image, "WEBP", lossless=True, xmp=packet)
        yield f"xmp {name}.tif", tiff(PHOTO, {700: list(packet)}, byte_tags=(700,))
    turned = b'XML:com.adobe.xmp\0\0\0\0\0<x tiff:Orientation="3"/>'
    for name, block in (("damaged", b"x"), ("upright", exif(1)), ("bad", exif(9)), ("empty", b"")):
        chunks = chunk(b"iTXt", turned) + chunk(b"eXIf", block)
        yield f"xmp and {name} exif.png", png(PHOTO, depth=8, colour=2, chunks=chunks)
    for kind in (b"tEXt", b"zTXt", b"iTXt"):
        for name, text in raw_profiles().items():
            content = {
                b"tEXt": b"\0" + text,
                b"zTXt": b"\0\0" + zlib.compress(text),
                b"iTXt": b"\0\1\0\0\0" + zlib.compress(text),
            }[kind]
            chunks = chunk(kind, b"Raw profile type exif" + content)
            yield f"raw {name} {kind.decode()}.png", png(PHOTO, depth=8, colour=2, chunks=chunks)
    for kind in (1, 4):
        yield f"orientation type {kind}.tif", tiff(PHOTO, {274: 3}, byte_tags=(274,) if kind == 1 else ())
    yield "orientation 9.tif", tiff(PHOTO, {274: 9})
    yield "orientation twice.tif", tiff(PHOTO, {274: [3, 3]})


def raw_profiles():
    """Texts as ImageMagick writes EXIF blocks."""
    digits = exif(3).hex().encode()
    return {
        "lower": b"\nexif\n26\n" + digits,
        "upper": b"\nexif\n26\n" + digits.upper(),
        "lines": b"\nexif\n      26\n" + digits[:10] + b"\n" + digits[10:] + b"\n",
        "odd": b"\nexif\n26\n" + digits + b"f",
        "two lines": b"\nexif " + digits,
        "no digits": b"\nexif\n26\nxyz",
    }


def damaged():
    """TIFFs and PNGs that lack rows, strips or tiles, or whose parts contradict each other."""
    row = PHOTO.shape[1] * 3
    for rows, there in ((12, 1), (6, 2), (6, 3), (5, 4), (6, 4)):
        offsets = [8 + i * rows * row for i in range(there)]
        tags = {278: rows, 273: offsets, 279: [rows * row] * there}
        yield f"{there} strips of {rows} rows.tif", tiff(PHOTO, tags)
    two = {278: 12, 273: [8, 8 + 12 * row]}
    for name, lengths in {
        "short": [12 * row - 1, 12 * row], "empty": [12 * row, 0], "beyond": [12 * row, 10**6],
        "one": [12 * row],
    }.items():  # fmt: skip
        yield f"{name} strip.tif", tiff(PHOTO, {**two, 279: lengths})
    yield "no rows.tif", tiff(PHOTO, {278: 0})
    yield "ycbcr.tif", tiff(PHOTO, {262: 6})
    for compression in ("group3", "group4", "tiff_ccitt", "zstd", "lzma"):
        image = PIL.Image.fromarray(PHOTO).convert("1")
        yield f"bits {compression}.tif", saved(image, "TIFF", compression=compression)
    body = b"".join(b"\0" + line.tobytes() for line in PHOTO)
    whole = png(PHOTO, depth=8, colour=2)
    for name, pixels in {
        "half": zlib.compress(body[: len(body) // 2]), "more": zlib.compress(body + b"x"),
        "no adler": zlib.compress(body)[:-4], "after": zlib.compress(body) + b"x",
    }.items():  # fmt: skip
        yield f"{name}.png", whole[:33] + chunk(b"IDAT", pixels) + whole[-12:]
    yield "no end.png", whole[:-12]
    yield "end twice.png", whole + whole[-12:]
    for name, chunks in {
        "srgb twice": chunk(b"sRGB", b"\0") * 2, "short gamma": chunk(b"gAMA", b"\0"),
        "critical": chunk(b"CRIT", b""), "tRNS": chunk(b"tRNS", b"\1\0\0\0\0\0"),
        "iccp": chunk(b"iCCP", b"x\0\0x"), "text": chunk(b"zTXt", b"x\0\0x"), "private": chunk(b"prVt", b"x"),
    }.items():  # fmt: skip
        yield f"{name}.png", png(PHOTO, depth=8, colour=2, chunks=chunks)
    yield (
        "tRNS of alpha.png",
        png(with_alpha(PHOTO, ALPHA), depth=8, colour=6, chunks=chunk(b"tRNS", b"\0\1\0\1\0\1")),
    )
