"""The C interface through ctypes, as a program in another language would call it."""

from __future__ import annotations

import ctypes
from ctypes import POINTER, Structure, byref, c_double, c_int, c_int64, c_size_t, c_ssize_t, c_uint8, c_void_p
from pathlib import Path

import native_build
import numpy as np

LAYOUTS = {1: 1, 2: 2, 3: 3, 4: 4}
SAMPLES = {"uint8": 1, "uint16": 2, "float32": 3}


class Options(Structure):
    """pe_metric_options."""

    _fields_ = (
        ("size", c_size_t),
        ("onnxruntime", ctypes.c_char_p),
        ("operators_library", ctypes.c_char_p),
        ("operators", c_int),
        ("threads", ctypes.c_int32),
        ("provider", ctypes.c_char_p),
    )


class Image(Structure):
    """pe_image."""

    _fields_ = (
        ("size", c_size_t),
        ("samples", c_void_p),
        ("width", c_int64),
        ("height", c_int64),
        ("layout", c_int),
        ("sample", c_int),
        ("row_stride", c_ssize_t),
        ("pixel_stride", c_ssize_t),
        ("channel_stride", c_ssize_t),
        ("premultiplied", ctypes.c_int32),
    )


class ScoreOptions(Structure):
    """pe_score_options."""

    _fields_ = (("size", c_size_t), ("background", c_uint8 * 3))


def image_of(array: np.ndarray) -> Image:
    """A view of (H, W, C) as it lies in memory."""
    height, width, channels = array.shape
    kind = LAYOUTS[channels], SAMPLES[array.dtype.name]
    return Image(ctypes.sizeof(Image), array.ctypes.data, width, height, *kind, *array.strides, 0)


class Library:
    """libpe_runtime.so."""

    def __init__(self, path: Path) -> None:
        self.c = ctypes.CDLL(str(path))
        self.c.pe_error_text.restype = ctypes.c_char_p
        self.c.pe_error_text.argtypes = (c_void_p,)
        self.c.pe_map_values.restype = POINTER(ctypes.c_float)
        self.c.pe_metric_metadata.restype = ctypes.c_char_p
        for name in ("pe_map_width", "pe_map_height", "pe_metric_min_size"):
            getattr(self.c, name).restype = c_int64
        for name in (
            "pe_metric_close",
            "pe_map_free",
            "pe_map_width",
            "pe_map_height",
            "pe_map_values",
            "pe_metric_metadata",
        ):
            getattr(self.c, name).argtypes = (c_void_p,)


class Metric:
    """An opened metric; errors are ValueErrors with the library's text."""

    def __init__(
        self,
        library: Library,
        path: Path,
        onnxruntime: Path,
        *,
        operators: int = 0,
        operators_library: Path | None = None,
        threads: int = 1,
    ) -> None:
        self.library, self.c = library, library.c
        self.handle = c_void_p()
        paths = (str(onnxruntime).encode(), operators_library and str(operators_library).encode())
        options = Options(ctypes.sizeof(Options), *paths, operators, threads, None)
        if self.c.pe_metric_open(str(path).encode(), byref(options), byref(self.handle)) != 0:
            raise ValueError(self.c.pe_error_text(None).decode())

    def score(
        self,
        reference: np.ndarray,
        distorted: np.ndarray,
        background: tuple[int, int, int] = (128, 128, 128),
        with_map: bool = True,
    ) -> tuple[float, np.ndarray | None]:
        """Score and map."""
        value, difference = c_double(), c_void_p()
        options = ScoreOptions(ctypes.sizeof(ScoreOptions), (c_uint8 * 3)(*background))
        images = image_of(reference), image_of(distorted)
        status = self.c.pe_metric_score(
            *(self.handle, byref(images[0]), byref(images[1]), byref(options), byref(value)),
            byref(difference) if with_map else None,
        )
        if status != 0:
            raise ValueError(self.c.pe_error_text(self.handle).decode())
        if not with_map:
            return value.value, None
        shape = self.c.pe_map_height(difference), self.c.pe_map_width(difference)
        values = np.ctypeslib.as_array(self.c.pe_map_values(difference), shape).copy()
        self.c.pe_map_free(difference)
        return value.value, values

    def close(self) -> None:
        """Give it back."""
        self.c.pe_metric_close(self.handle)


def open_fused(path: Path, threads: int = 1) -> Metric:
    """A metric with fused operators, in the libraries of the native build."""
    folder = native_build.build("pe_c", "pe_ort", needs="PE_CAPI_REASON")
    return Metric(
        Library(folder / "csrc" / "capi" / "libpe_runtime.so"),
        path,
        native_build.onnxruntime_library(),
        operators=1,
        operators_library=folder / "csrc" / "ort" / "libpe_runtime_ort.so",
        threads=threads,
    )
