"""ICC profiles that files of the corpus carry, made byte by byte (ICC.1:2001-04)."""

import struct
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from gate_corpus import bare_profile, profile, swapped_profile


def profiles():
    """Profiles by name: of RGB, grey and CMYK, and damaged."""
    yield "sRGB", profile()
    yield "red and blue", swapped_profile()
    yield "gamma", matrix_profile(gamma=1.8)
    yield "table", matrix_profile(gamma=None)
    yield "grey", bare_profile(b"GRAY")
    yield "cmyk", bare_profile(b"CMYK")
    yield "damaged", profile()[:200]
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
