"""What an exported metric says of itself: its ONNX file read and checked, without running it."""

from __future__ import annotations

import hashlib
import io
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pe_runtime.gate.metadata import METADATA_KEY, parse_metadata
from pe_runtime.gate.onnx_file import OnnxFile, scan_onnx
from pe_runtime.gate.regular import open_regular, read_regular, sha256_of

if TYPE_CHECKING:
    import onnx

DOMAIN = "pe_runtime"
FORMAT = 1

#: protobuf's limit; a larger model would have its weights in other files.
MAX_FILE_BYTES = (1 << 31) - 1
_EXPECTED = "an ONNX file"
_Values = dict[str, tuple[str, tuple[int | str | None, ...]]]


@dataclass(frozen=True)
class MetricFile:
    """An ONNX file, known to be well formed.

    Attributes:
        path: where it was read from.
        data: its bytes; empty where `describe_metric` read it.
        sha256: hex digest of them.
        metadata: the JSON object under the metadata key "pe_runtime"; None without such a key.
        inputs: name to (element type such as "float32", dimensions; a name or None where free).
        outputs: the same.
        opsets: operator set domain ("ai.onnx" for the standard one) to version.
    """

    path: Path
    data: bytes
    sha256: str
    metadata: dict[str, Any] | None
    inputs: _Values
    outputs: _Values
    opsets: dict[str, int]

    @property
    def input_type(self) -> str:
        """ "float32" or "uint8"."""
        return str((self.metadata or {})["input"])

    @property
    def min_size(self) -> int:
        """Least height and width of the images it compares."""
        return int((self.metadata or {})["min_size"])

    @property
    def has_map(self) -> bool:
        """Whether it gives a difference map beside the score."""
        return "map" in self.outputs

    @property
    def fused(self) -> bool:
        """Whether it has nodes of the project's own operators."""
        return DOMAIN in self.opsets

    @property
    def threshold(self) -> float | None:
        """The largest passing score that it was exported with, if any."""
        value = (self.metadata or {}).get("threshold")
        return None if value is None else float(value)

    def check_contract(self) -> None:
        """Refuse a graph that is no metric the gate can judge with.

        Raises:
            ValueError: metadata missing, of another format or with unusable values; inputs or outputs
                that do not match the metadata.
        """
        self._check_metadata()
        layout = (None, 3, None, None) if self.input_type == "float32" else (None, None, None, 3)
        if set(self.inputs) != {"reference", "distorted"}:
            raise ValueError(
                f"{self.path}: expected inputs reference and distorted, got {_names(self.inputs)}"
            )
        for name in ("reference", "distorted"):
            self._check_value(name, self.inputs[name], self.input_type, layout)
        if "score" not in self.outputs:
            raise ValueError(f"{self.path}: expected an output score, got {_names(self.outputs)}")
        self._check_value("score", self.outputs["score"], "float32", (None,))
        if self.has_map:
            self._check_value("map", self.outputs["map"], "float32", (None, 1, None, None))
        if "verdict" in self.outputs:
            self._check_value("verdict", self.outputs["verdict"], "bool", (None,))

    def _check_metadata(self) -> None:
        if self.metadata is None:
            raise ValueError(
                f"{self.path}: expected a metric written by pe-runtime export, "
                f"got an ONNX file without the metadata key {METADATA_KEY!r}"
            )
        get = self.metadata.get
        if get("format") != FORMAT or isinstance(get("format"), bool):
            raise ValueError(f"{self.path}: metadata: expected format {FORMAT}, got {get('format')!r}")
        if get("input") not in ("float32", "uint8"):
            raise ValueError(
                f"{self.path}: metadata: expected input 'float32' or 'uint8', got {get('input')!r}"
            )
        min_size = get("min_size")
        if not isinstance(min_size, int) or isinstance(min_size, bool) or not 1 <= min_size < 1 << 31:
            raise ValueError(f"{self.path}: metadata: expected min_size of at least 1, got {min_size!r}")
        threshold = get("threshold")
        if threshold is None:
            return
        number = isinstance(threshold, int | float) and not isinstance(threshold, bool)
        if not (number and threshold >= 0 and math.isfinite(threshold)):
            raise ValueError(
                f"{self.path}: metadata: expected threshold null or a finite number >= 0, got {threshold!r}"
            )

    def _check_value(
        self,
        name: str,
        value: tuple[str, tuple[int | str | None, ...]],
        element: str,
        layout: tuple[int | None, ...],
    ) -> None:
        kind, shape = value
        # Sizes that a graph fixes are left to the runtime, which refuses images of any other.
        fits = len(shape) == len(layout) and all(
            wanted is None or not isinstance(size, int) or size == wanted
            for size, wanted in zip(shape, layout, strict=False)
        )
        if kind != element or not fits:
            expected = ", ".join("?" if size is None else str(size) for size in layout)
            raise ValueError(
                f"{self.path}: {name}: expected {element} of shape ({expected}), got {kind} of shape {shape}"
            )


def read_metric(path: str | os.PathLike[str]) -> MetricFile:
    """Read an ONNX file whole and check that it is well formed.

    Args:
        path: a regular file of less than 2 GiB.

    Returns:
        What it says of itself. Whether it is a metric is not checked: see `MetricFile.check_contract`.

    Raises:
        ValueError: no regular file; not an ONNX model; truncated or damaged; weights kept in other files;
            fields that readers could read in several ways; metadata that is not a valid JSON object.
        OSError: the file cannot be read.
    """
    import onnx

    path = Path(path)
    data = read_regular(path, _EXPECTED, MAX_FILE_BYTES)
    try:
        found = scan_onnx(io.BytesIO(data), len(data))
        onnx.checker.check_model(onnx.load_model_from_string(data))
    except Exception as error:  # protobuf and the checker have exception types of their own
        raise _invalid(path, error) from error
    return _metric_file(path, data, hashlib.sha256(data).hexdigest(), found)


def describe_metric(path: str | os.PathLike[str]) -> tuple[MetricFile, int]:
    """The same in memory that does not depend on the file's size: the graph is not checked, no byte kept.

    Returns:
        What it says of itself, and its size in bytes.

    Raises:
        ValueError: as `read_metric`, for all but the graph.
        OSError: the file cannot be read.
    """
    path = Path(path)
    file, size = open_regular(path, _EXPECTED, MAX_FILE_BYTES)
    with file:
        try:
            found = scan_onnx(file, size)
        except ValueError as error:
            raise _invalid(path, error) from error
        sha256 = sha256_of(file)
    return _metric_file(path, b"", sha256, found), size


def _metric_file(path: Path, data: bytes, sha256: str, found: OnnxFile) -> MetricFile:
    import onnx

    if len(found.metadata) > 1:
        raise ValueError(f"{path}: expected one metadata key {METADATA_KEY!r}, got {len(found.metadata)}")
    opsets = [onnx.OperatorSetIdProto.FromString(message) for message in found.opsets]
    return MetricFile(
        path=path,
        data=data,
        sha256=sha256,
        metadata=parse_metadata(found.metadata[0], path) if found.metadata else None,
        inputs=_values(found.inputs, without=found.constants),
        outputs=_values(found.outputs),
        opsets={opset.domain or "ai.onnx": opset.version for opset in opsets},
    )


def _invalid(path: Path, error: Exception) -> ValueError:
    reason = " ".join(str(error).split())
    return ValueError(f"{path}: expected a valid ONNX file: {reason or type(error).__name__}")


def _values(messages: list[bytes], without: set[bytes] | frozenset[bytes] = frozenset()) -> _Values:
    import onnx

    values = [onnx.ValueInfoProto.FromString(message) for message in messages]
    return {value.name: _type_and_shape(value) for value in values if value.name.encode() not in without}


def _type_and_shape(value: onnx.ValueInfoProto) -> tuple[str, tuple[int | str | None, ...]]:
    import onnx

    if not value.type.HasField("tensor_type"):
        return str(value.type.WhichOneof("value")), ()
    tensor = value.type.tensor_type
    try:
        element = str(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type))
    except (KeyError, ValueError, TypeError):
        element = f"element type {tensor.elem_type}"
    sizes = (
        dim.dim_value if dim.HasField("dim_value") else dim.dim_param or None for dim in tensor.shape.dim
    )
    return element, tuple(sizes)


def _names(values: dict[str, Any]) -> str:
    return ", ".join(values) or "none"
