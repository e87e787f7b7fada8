"""Small metrics and image files written byte by byte, for the tests of the gate."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

FLOAT, UINT8 = TensorProto.FLOAT, TensorProto.UINT8

# An import hook that stands in for a machine without torch: asking for it is an error.
WITHOUT_TORCH = """
import sys
class NoTorch:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "torchvision"):
            raise AssertionError(f"{name} is imported")
sys.meta_path.insert(0, NoTorch())
from pe_runtime.cli import main
try:
    main()
finally:
    assert not {"torch", "torchvision"} & set(sys.modules)
"""


def run_python(code: str, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a program text with arguments in a process of its own."""
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        timeout=120,
        check=False,
    )


def metadata(**changes: object) -> dict[str, object]:
    """The metadata that pe-runtime export writes, as far as the gate reads it."""
    return {
        "format": 1,
        "pe_runtime": "0.1.0",
        "metric": "feature_distance",
        "input": "float32",
        "map": True,
        "min_size": 4,
        "threshold": None,
        **changes,
    }


def write_metric(
    path: Path,
    *,
    uint8: bool = False,
    has_map: bool = True,
    scale: float = 1.0,
    offset: float = 0.0,
    meta: object = None,
    **changes: object,
) -> Path:
    """Mean squared difference x scale + offset, and its map, with the interface of an exported metric."""
    nodes = []
    for name in ("reference", "distorted"):
        if uint8:
            nodes += [
                helper.make_node("Cast", [name], [f"{name}_cast"], to=FLOAT),
                helper.make_node("Transpose", [f"{name}_cast"], [f"{name}_planar"], perm=[0, 3, 1, 2]),
                helper.make_node("Div", [f"{name}_planar", "top"], [f"{name}_unit"]),
            ]
        else:
            nodes.append(helper.make_node("Identity", [name], [f"{name}_unit"]))
    nodes += [
        helper.make_node("Sub", ["reference_unit", "distorted_unit"], ["difference"]),
        helper.make_node("Mul", ["difference", "difference"], ["square"]),
        helper.make_node("ReduceMean", ["square", "channel"], ["map"], keepdims=1),
        helper.make_node("ReduceMean", ["map", "image"], ["mean"], keepdims=0),
        helper.make_node("Mul", ["mean", "scale"], ["scaled"]),
        helper.make_node("Add", ["scaled", "offset"], ["score"]),
    ]
    element, shape = (UINT8, ["B", "H", "W", 3]) if uint8 else (FLOAT, ["B", 3, "H", "W"])
    inputs = [
        helper.make_tensor_value_info(name, element, shape, doc_string="")
        for name in ("reference", "distorted")
    ]
    outputs = [helper.make_tensor_value_info("score", FLOAT, ["B"])]
    if has_map:
        outputs.append(helper.make_tensor_value_info("map", FLOAT, ["B", 1, "H", "W"]))
    constants = {
        "channel": np.array([1]),
        "image": np.array([1, 2, 3]),
        "top": np.float32(255),
        "scale": np.float32(scale),
        "offset": np.float32(offset),
    }
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    if meta is None:
        meta = metadata(input="uint8" if uint8 else "float32", map=has_map, **changes)
    return save_model(path, nodes, inputs, outputs, tensors, meta)


def save_model(path, nodes, inputs, outputs, tensors=(), meta=None) -> Path:
    """Any graph; `meta` is put under the metadata key as JSON, or as it is where it is a string."""
    graph = helper.make_graph(nodes, "metric", inputs, outputs, list(tensors))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    if meta is not None and meta is not False:
        text = meta if isinstance(meta, str) else json.dumps(meta)
        helper.set_model_props(model, {"pe_runtime": text})
    onnx.save(model, path)
    return path


def chunk(kind: bytes, data: bytes) -> bytes:
    """One chunk of a PNG."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(rows: np.ndarray, *, depth: int, colour: int, chunks: bytes = b"") -> bytes:
    """A PNG of samples (H, W) or (H, W, C); depths below 8 are packed, `chunks` go before the pixels."""
    height, width = rows.shape[:2]
    if depth == 16:
        lines = [row.astype(">u2").tobytes() for row in rows]
    elif depth == 8:
        lines = [row.astype(np.uint8).tobytes() for row in rows]
    else:
        bits = np.unpackbits(rows.astype(np.uint8)[..., None], axis=2)[..., 8 - depth :]
        lines = [np.packbits(row.reshape(-1)).tobytes() for row in bits]
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(b"".join(b"\0" + line for line in lines)))
    return b"\x89PNG\r\n\x1a\n" + header + chunks + pixels + chunk(b"IEND", b"")


def exif(orientation: int) -> bytes:
    """An EXIF block, as a little-endian TIFF, with nothing but an orientation."""
    return struct.pack("<2sHIHHHIHHI", b"II", 42, 8, 1, 274, 3, 1, orientation, 0, 0)


def tiff(
    samples: np.ndarray, tags: dict[int, int | list[int]] | None = None, *, byte_tags: tuple[int, ...] = ()
) -> bytes:
    """An uncompressed little-endian TIFF of one strip; (H, W) or (H, W, C); `tags` adds or replaces.

    Values are SHORT, offsets and byte counts LONG, those of `byte_tags` BYTE.
    """
    height, width = samples.shape[:2]
    count = 1 if samples.ndim == 2 else samples.shape[2]
    pixels = samples.astype(samples.dtype.newbyteorder("<")).tobytes()
    entries: dict[int, int | list[int]] = {
        256: width,
        257: height,
        258: [samples.dtype.itemsize * 8] * count,
        259: 1,
        262: 1 if count == 1 else 2,
        273: 8,
        277: count,
        278: height,
        279: len(pixels),
        284: 1,
        **(tags or {}),
    }
    extra, directory = b"", b""
    end = 8 + len(pixels)
    for tag in sorted(entries):
        value = entries[tag]
        values = value if isinstance(value, list) else [value]
        kind, form = (4, "I") if tag in (273, 279) else (1, "B") if tag in byte_tags else (3, "H")
        packed = struct.pack(f"<{len(values)}{form}", *values)
        if len(packed) > 4:
            packed, extra = struct.pack("<I", end + len(extra)), extra + packed
        directory += struct.pack("<HHI", tag, kind, len(values)) + packed.ljust(4, b"\0")
    body = struct.pack("<H", len(entries)) + directory + struct.pack("<I", 0)
    return struct.pack("<2sHI", b"II", 42, end + len(extra)) + pixels + extra + body
