"""What an exported metric says of itself: its ONNX file read and checked, without running it."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import onnx

METADATA_KEY = "pe_runtime"
DOMAIN = "pe_runtime"
FORMAT = 1

#: protobuf's limit; a larger model would have its weights in other files.
MAX_FILE_BYTES = (1 << 31) - 1


@dataclass(frozen=True)
class MetricFile:
    """An ONNX file, known to be well formed.

    Attributes:
        path: where it was read from.
        data: its bytes.
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
    inputs: dict[str, tuple[str, tuple[int | str | None, ...]]]
    outputs: dict[str, tuple[str, tuple[int | str | None, ...]]]
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
        if not isinstance(min_size, int) or isinstance(min_size, bool) or min_size < 1:
            raise ValueError(f"{self.path}: metadata: expected min_size of at least 1, got {min_size!r}")
        threshold = get("threshold")
        if threshold is None:
            return
        number = isinstance(threshold, int | float) and not isinstance(threshold, bool)
        # Written so that NaN, and integers too large for a float, are refused as well.
        if not (number and 0 <= threshold <= sys.float_info.max):
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
        path: the file.

    Returns:
        What it says of itself. Whether it is a metric is not checked: see `MetricFile.check_contract`.

    Raises:
        ValueError: not an ONNX model; truncated or damaged; weights kept in other files; metadata that
            is not a JSON object.
        OSError: the file cannot be read.
    """
    import onnx

    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"{path}: expected an ONNX file, got a directory")
    if path.stat().st_size > MAX_FILE_BYTES:
        raise ValueError(f"{path}: expected an ONNX file of less than 2 GiB, got {path.stat().st_size} bytes")
    data = path.read_bytes()
    try:
        model = onnx.load_model_from_string(data)
        if _has_external_data(model):
            raise ValueError("expected the weights inside the file, got references to other files")
        onnx.checker.check_model(model)
        inputs = _values(model.graph.input, without={tensor.name for tensor in model.graph.initializer})
        outputs = _values(model.graph.output)
    except Exception as error:  # protobuf and the checker have exception types of their own
        reason = " ".join(str(error).split())
        raise ValueError(f"{path}: expected a valid ONNX file: {reason or type(error).__name__}") from error
    return MetricFile(
        path=path,
        data=data,
        sha256=hashlib.sha256(data).hexdigest(),
        metadata=_metadata(model, path),
        inputs=inputs,
        outputs=outputs,
        opsets={opset.domain or "ai.onnx": opset.version for opset in model.opset_import},
    )


def parse_metadata(text: str, path: Path) -> dict[str, Any]:
    """The JSON object that an exported metric or a profile carries.

    Raises:
        ValueError: not a JSON object.
    """
    try:
        metadata = json.loads(text)
        json.dumps(metadata, allow_nan=False)  # NaN and infinity are not JSON, though Python reads them
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: metadata {METADATA_KEY!r}: expected JSON: {error}") from None
    if not isinstance(metadata, dict):
        raise ValueError(
            f"{path}: metadata {METADATA_KEY!r}: expected a JSON object, got {type(metadata).__name__}"
        )
    return metadata


def _has_external_data(model: onnx.ModelProto) -> bool:
    import onnx.external_data_helper

    return any(onnx.external_data_helper.uses_external_data(tensor) for tensor in model.graph.initializer)


def _metadata(model: onnx.ModelProto, path: Path) -> dict[str, Any] | None:
    texts = [entry.value for entry in model.metadata_props if entry.key == METADATA_KEY]
    if len(texts) > 1:
        raise ValueError(f"{path}: expected one metadata key {METADATA_KEY!r}, got {len(texts)}")
    return parse_metadata(texts[0], path) if texts else None


def _values(
    values: Any, without: set[str] | frozenset[str] = frozenset()
) -> dict[str, tuple[str, tuple[int | str | None, ...]]]:
    return {value.name: _type_and_shape(value) for value in values if value.name not in without}


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
