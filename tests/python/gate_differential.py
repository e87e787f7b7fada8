"""Both gates on random and damaged pairs of image files: the same verdicts, scores and warnings.

python tests/python/gate_differential.py --pairs 10000 --seed 1 [--keep FOLDER]

Prints what differs, and one line that counts; ends with status 1 if anything differs. Builds pe_gate as the
tests do. The files of a pair depend on nothing but the seed and the pair's number.
"""

from __future__ import annotations

import argparse
import collections
import io
import json
import random
import shutil
import struct
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL.Image

sys.path.insert(0, str(Path(__file__).parent))
from gate_corpus import PHOTO, SIZE, coloured, jpegs, others, pngs, saved
from gate_helpers import chunk, exif, write_metric
from gate_profiles import profiles

SIGNATURE = b"\x89PNG\r\n\x1a\n"

# Values that decoders treat apart.
_BYTES = (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 15, 16, 17, 31, 32, 64, 127, 128, 254, 255)
_WORDS = (0, 1, 2, 3, 5, 8, 16, 23, 24, 25, 31, 32, 33, 255, 256, 32768, 65535, 65536, 2**31 - 1, 2**32 - 1)

#: Pairs that one run of each gate gets.
FOLDER = 1000


@dataclass(frozen=True)
class Difference:
    """A pair on which the gates differ: its name, and what each says of it."""

    name: str
    python: object
    native: object


@dataclass
class Outcome:
    """What came of a run: how many pairs had each verdict, how many a warning, and the differences."""

    verdicts: collections.Counter[str]
    warned: int
    differences: list[Difference]


def run(
    pairs: int, seed: int, work: Path, gates: dict[str, list[object]], keep: Path | None = None
) -> Outcome:
    """Judge random pairs by both gates.

    Args:
        pairs: how many.
        seed: other seeds make other pairs.
        work: an empty folder for the files, which are removed.
        gates: "python" and "native", each the start of a command line.
        keep: where pairs that differ are kept.
    """
    metrics = [write_metric(work / f"{uint8}.onnx", uint8=uint8) for uint8 in (False, True)]
    bases = list(_bases())
    outcome = Outcome(collections.Counter(), 0, [])
    for number, start in enumerate(range(0, pairs, FOLDER)):
        folder = work / str(number)
        for i in range(start, min(start + FOLDER, pairs)):
            _write_pair(folder, bases, random.Random(f"{seed} {i}"), i)
        options = _options(random.Random(f"{seed} options {number}"), metrics)
        reports = {name: _report(folder, command, name, options) for name, command in gates.items()}
        outcome.verdicts.update(result["verdict"] for result in reports["python"]["results"])
        outcome.warned += sum(bool(result["warnings"]) for result in reports["python"]["results"])
        found = list(_differences(reports["python"], reports["native"]))
        outcome.differences += found
        for difference in found if keep is not None else ():
            for side in ("reference", "candidate"):
                (keep / side).mkdir(parents=True, exist_ok=True)
                shutil.copy(folder / side / difference.name, keep / side / difference.name)
        shutil.rmtree(folder)
    return outcome


def _options(rng: random.Random, metrics: list[Path]) -> list[object]:
    background = f"#{rng.randrange(1 << 24):06x}"
    options = ["--metric", rng.choice(metrics), "--threshold", "0.05", "--background", background]
    return [*options, "--colour", rng.choice(("srgb", "srgb", "stored"))]


def _report(folder: Path, command: list[object], name: str, options: list[object]) -> dict:
    report = folder / f"{name}.json"
    sides = folder / "reference", folder / "candidate"
    arguments = [*command, *sides, *options, "--quiet", "--json", report]
    done = subprocess.run(list(map(str, arguments)), capture_output=True, text=True, timeout=1800)
    if done.returncode not in (0, 1, 2):
        raise RuntimeError(f"{name}: status {done.returncode}\n{done.stderr}")
    return json.loads(report.read_text())


def _differences(python: dict, native: dict) -> Iterator[Difference]:
    if python["error"] != native["error"] or len(python["results"]) != len(native["results"]):
        yield Difference("", python["error"], native["error"])
        return
    for one, other in zip(python["results"], native["results"], strict=True):
        same = all(one[key] == other[key] for key in ("name", "verdict", "width", "height", "warnings"))
        scores = one["score"], other["score"]
        if None not in scores:
            same = same and abs(scores[0] - scores[1]) <= 1e-6
        if not same:
            yield Difference(one["name"], one, other)


def _bases() -> Iterator[tuple[str, bytes]]:
    """Whole files of all kinds."""
    yield from pngs()
    yield from jpegs()
    yield from others()
    yield from coloured()
    image = PIL.Image.fromarray(PHOTO)
    for name, data in profiles():
        yield f"{name}.png", saved(image, "PNG", icc_profile=data)
        yield f"{name}.jpg", saved(image, "JPEG", icc_profile=data)
        yield f"{name} grey.png", saved(image.convert("L"), "PNG", icc_profile=data)
        yield f"{name} grey.tif", saved(image.convert("L"), "TIFF", icc_profile=data)
        yield f"{name}.tif", saved(image, "TIFF", compression="tiff_lzw", icc_profile=data)
    for depth, colour in ((1, 0), (2, 3), (8, 2), (8, 6), (16, 4), (16, 2)):
        yield f"adam7 {depth} {colour}.png", _adam7(depth, colour)
    buffer = io.BytesIO()
    image.save(buffer, "TIFF", compression="tiff_lzw", tiffinfo={278: 7})
    yield "strips.tif", buffer.getvalue()


def _adam7(depth: int, colour: int) -> bytes:
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
            lines += b"\0" + _packed(row.reshape(-1), depth)
    pixels = chunk(b"IDAT", zlib.compress(lines))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + palette + pixels + chunk(b"IEND", b"")


def _packed(samples: np.ndarray, depth: int) -> bytes:
    if depth == 16:
        return samples.astype(">u2").tobytes()
    if depth == 8:
        return samples.astype(np.uint8).tobytes()
    bits = np.unpackbits(samples.astype(np.uint8)[:, None], axis=1)[:, 8 - depth :]
    return np.packbits(bits.reshape(-1)).tobytes()


def _write_pair(folder: Path, bases: list[tuple[str, bytes]], rng: random.Random, number: int) -> None:
    name, whole = rng.choice(bases)
    suffix = Path(name).suffix
    files = {"candidate": whole, "reference": whole}
    kind = rng.random()
    if kind < 0.4:  # other pixels
        size = SIZE if rng.random() < 0.9 else SIZE[::-1]
        noise = np.random.default_rng(rng.randrange(1 << 30)).integers(
            0, 256, (size[1], size[0], 3), np.uint8
        )
        files["reference"] = saved(noise, rng.choice(("PNG", "BMP", "TIFF")))
    elif kind < 0.55:  # another file
        files["reference"] = rng.choice(bases)[1]
    for side in ("reference", "candidate"):
        if rng.random() < (0.7 if side == "candidate" else 0.1):
            files[side] = mutated(files[side], rng)
        path = folder / side / f"{number:06}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(_without_run_lengths(files[side]))


def _without_run_lengths(data: bytes) -> bytes:
    """A BMP that says that it is run-length encoded is read by one gate only (docs/pe-gate.md)."""
    if data[:2] == b"BM" and data[30:34] in (b"\1\0\0\0", b"\2\0\0\0"):
        return data[:30] + b"\0" + data[31:]
    return data


def mutated(data: bytes, rng: random.Random) -> bytes:
    """The file with a few changes, of its bytes or of its parts."""
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        if data[:8] == SIGNATURE and rng.random() < 0.6:
            data = _mutated_png(data, rng)
        elif data[:4] in (b"II*\0", b"MM\0*") and rng.random() < 0.7:
            data = _mutated_tags(data, rng)
        elif data[:3] == b"\xff\xd8\xff" and rng.random() < 0.3:
            data = _with_segment(data, rng)
        else:
            data = _mutated_bytes(data, rng)
    if data[:8] == SIGNATURE and rng.random() < 0.5:
        data = _with_right_checksums(data)
    return data


def _mutated_bytes(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data or b"x")
    # Headers are where most depends on a byte.
    at = rng.randrange(len(changed) if rng.random() < 0.5 else min(len(changed), 200))
    action = rng.random()
    if action < 0.35:
        changed[at] ^= 1 << rng.randrange(8)
    elif action < 0.7:
        changed[at] = rng.choice(_BYTES)
    elif action < 0.8:
        changed[at] = rng.randrange(256)
    elif action < 0.87:
        del changed[at : at + rng.randrange(1, 9)]
    elif action < 0.94:
        changed[at:at] = rng.randbytes(rng.randrange(1, 9))
    else:
        del changed[max(at, 1) :]
    return bytes(changed)


def _chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    """Kinds and contents of a PNG's chunks, as far as they are there."""
    chunks, at = [], 8
    while at + 12 <= len(data):
        length = struct.unpack_from(">I", data, at)[0]
        chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + min(length, len(data) - at - 12)]))
        at += 12 + length
    return chunks


def _with_right_checksums(data: bytes) -> bytes:
    return SIGNATURE + b"".join(chunk(kind, content) for kind, content in _chunks(data))


def _new_chunk(rng: random.Random) -> tuple[bytes, bytes]:
    choices = {
        b"gAMA": struct.pack(">I", rng.choice((45455, 45000, 45956, 100000, 0, 2**32 - 1))),
        b"cHRM": struct.pack(
            ">8I", *rng.choice(((31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000), range(8)))
        ),
        b"cICP": bytes(rng.choice(((1, 13, 0, 1), (9, 16, 0, 1)))),
        b"sRGB": b"\0",
        b"tRNS": rng.randbytes(rng.choice((1, 2, 2, 6, 6, 7))),
        b"PLTE": rng.randbytes(rng.choice((3, 48, 768, 10))),
        b"eXIf": _mutated_bytes(exif(rng.randrange(10)), rng)
        if rng.random() < 0.5
        else exif(rng.randrange(10)),
        b"tEXt": b"Raw profile type exif\0\nexif\n1\n" + exif(rng.randrange(9)).hex().encode(),
        b"iTXt": b"XML:com.adobe.xmp\0\0\0\0\0<x tiff:Orientation = '%d'>" % rng.randrange(10),
        b"iCCP": b"x\0\0" + zlib.compress(rng.choice(list(profiles()))[1]),
        b"acTL": struct.pack(">II", rng.choice((0, 1, 2)), 0),
        b"IDAT": b"",
        b"abCd": b"private",
        b"ABCD": b"critical",
    }
    kind = rng.choice(list(choices))
    content = choices[kind]
    return kind, content[:-1] if rng.random() < 0.1 else content


def _mutated_png(data: bytes, rng: random.Random) -> bytes:
    chunks = _chunks(data)
    if not chunks:
        return _mutated_bytes(data, rng)
    at = rng.randrange(len(chunks))
    kind, content = chunks[at]
    action = rng.random()
    if action < 0.35:
        chunks.insert(rng.randrange(1, len(chunks) + 1) if rng.random() < 0.2 else 1, _new_chunk(rng))
    elif action < 0.45:
        other = rng.randrange(len(chunks))
        chunks[at], chunks[other] = chunks[other], chunks[at]
    elif action < 0.5:
        del chunks[at]
    elif action < 0.55:
        chunks.insert(at, chunks[at])
    elif action < 0.7 and kind == b"IDAT":
        middle = rng.randrange(len(content) + 1)
        chunks[at : at + 1] = [(kind, content[:middle]), (kind, content[middle:])]
    elif action < 0.85:
        chunks = [(k, _other_pixels(c, rng) if k == b"IDAT" else c) for k, c in chunks]
    elif content:
        chunks[at] = (kind, _mutated_bytes(content, rng))
    return SIGNATURE + b"".join(chunk(*entry) for entry in chunks)


def _other_pixels(content: bytes, rng: random.Random) -> bytes:
    """Compressed pixels with rows that are missing, too many or damaged, or a stream with bytes behind it."""
    try:
        rows = zlib.decompress(content)
    except zlib.error:
        return content
    action = rng.randrange(4)
    if action == 0:
        rows = rows[: rng.randrange(len(rows) + 1)]
    elif action == 1:
        rows += rng.randbytes(rng.randrange(1, 200))
    elif action == 2:
        rows = _mutated_bytes(rows, rng)
    return zlib.compress(rows) + (rng.randbytes(rng.randrange(1, 5)) if action == 3 else b"")


def _mutated_tags(data: bytes, rng: random.Random) -> bytes:
    """A TIFF with another type, count or value of one of its tags, or without one."""
    order = "<" if data[:1] == b"I" else ">"
    changed = bytearray(data)
    if len(data) < 8:
        return _mutated_bytes(data, rng)
    (at,) = struct.unpack_from(order + "I", data, 4)
    if at + 2 > len(data):
        return _mutated_bytes(data, rng)
    (count,) = struct.unpack_from(order + "H", data, at)
    entry = at + 2 + 12 * rng.randrange(max(count, 1))
    if entry + 12 > len(data):
        return _mutated_bytes(data, rng)
    tag, kind, values, value = struct.unpack_from(order + "HHII", data, entry)
    action = rng.random()
    if action < 0.45:
        value = rng.choice((*_WORDS, len(data), len(data) - 1, value ^ 1 << rng.randrange(32), value + 1))
    elif action < 0.65:
        values = rng.choice((*_WORDS[:12], values + 1, max(values - 1, 0)))
    elif action < 0.8:
        kind = rng.choice((0, 1, 2, 3, 4, 5, 6, 7, 8, 12, 13, 16, 17))
    else:
        tag = rng.choice(
            (254, 258, 259, 262, 266, 273, 274, 277, 278, 279, 284, 317, 320, 322, 338, 339, 700, 34675)
        )
    if kind == 3 and values == 1 and order == ">" and action < 0.45:
        value = value << 16 & 0xFFFFFFFF
    struct.pack_into(order + "HHII", changed, entry, tag, kind, values, value & 0xFFFFFFFF)
    return bytes(changed)


def _with_segment(data: bytes, rng: random.Random) -> bytes:
    """A JPEG with one segment of metadata more."""
    block = exif(rng.randrange(10))
    content = rng.choice(
        (
            b"Exif\0\0" + block,
            b"Exif\0\0Exif\0\0" + block,
            b"Exif\0\0" + _mutated_bytes(block, rng),
            b"http://ns.adobe.com/xap/1.0/\0<tiff:Orientation>\n %d" % rng.randrange(10),
            b"ICC_PROFILE\0\1\1" + rng.choice(list(profiles()))[1],
        )
    )
    marker = b"\xe2" if content.startswith(b"ICC") else b"\xe1"
    return data[:2] + b"\xff" + marker + struct.pack(">H", len(content) + 2) + content + data[2:]


def main() -> None:
    import native_build

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=10000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", type=Path)
    options = parser.parse_args()
    program = native_build.build("pe_gate", needs="PE_GATE_REASON") / "csrc" / "app" / "pe_gate"
    gates = {
        "python": [sys.executable, "-m", "pe_runtime", "gate"],
        "native": [program, "--onnxruntime", native_build.onnxruntime_library()],
    }
    with tempfile.TemporaryDirectory() as work:
        outcome = run(options.pairs, options.seed, Path(work), gates, options.keep)
    for difference in outcome.differences:
        print(f"{difference.name}\n  python {difference.python}\n  native {difference.native}")
    counts = ", ".join(f"{count} {verdict}" for verdict, count in sorted(outcome.verdicts.items()))
    print(
        f"{options.pairs} pairs of seed {options.seed}: {counts}, {outcome.warned} with warnings; "
        f"{len(outcome.differences)} differ"
    )
    sys.exit(1 if outcome.differences else 0)


if __name__ == "__main__":
    main()
