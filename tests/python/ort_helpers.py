"""ONNX models of one operator of the domain `pe_runtime`, and their sessions."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper

from pe_runtime.ort import ort_library_path

#: ONNX element type to torch's.
TYPES = {
    TensorProto.FLOAT: torch.float32,
    TensorProto.DOUBLE: torch.float64,
    TensorProto.FLOAT16: torch.float16,
    TensorProto.BFLOAT16: torch.bfloat16,
}
_NAMES = {
    "ContextualLoss": ("source", "target", "channels", "weights"),
    "ChannelDistance": ("first", "second", "channels", "weights", "linear"),
}


def operator_model(
    op: str,
    *,
    element: int = TensorProto.FLOAT,
    channels: list[int] | None = None,
    weights: list[float] | None = None,
    linear: list[float] | None = None,
    outputs: tuple[str, ...] = ("loss", "map"),
    shapes: tuple[tuple[Any, ...], tuple[Any, ...]] = (("b", "c", "h", "w"), ("b", "c", "hy", "wy")),
    functions: list[onnx.FunctionProto] | None = None,
    **attributes: Any,
) -> onnx.ModelProto:
    """The operator on two float64 inputs, cast to the element type; constants are initializers."""
    first, second, *optional = _NAMES[op]
    constants = {
        "channels": None if channels is None else np.array(channels, np.int64),
        "weights": None if weights is None else np.array(weights, np.float32),
        "linear": None if linear is None else np.array(linear, np.float32),
    }
    present = [name if constants[name] is not None else "" for name in optional]
    while present and not present[-1]:
        present.pop()
    result = TensorProto.DOUBLE if element == TensorProto.DOUBLE else TensorProto.FLOAT
    nodes = [
        helper.make_node("Cast", [first], ["first_cast"], to=element),
        helper.make_node("Cast", [second], ["second_cast"], to=element),
        helper.make_node(
            op, ["first_cast", "second_cast", *present], list(outputs), domain="pe_runtime", **attributes
        ),
    ]
    graph = helper.make_graph(
        nodes,
        "test",
        [
            helper.make_tensor_value_info(name, TensorProto.DOUBLE, shape)
            for name, shape in zip((first, second), shapes, strict=True)
        ],
        [helper.make_tensor_value_info(name, result, None) for name in outputs if name],
        [numpy_helper.from_array(value, name) for name, value in constants.items() if value is not None],
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("pe_runtime", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9, functions=functions or [])


def plain_session(model: Any) -> onnxruntime.InferenceSession:
    """Of a path or of bytes, without the library. On one thread: others wait busily, and tests are many."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def session_of(model: onnx.ModelProto, threads: int = 1) -> onnxruntime.InferenceSession:
    """With the library."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    options.register_custom_ops_library(str(ort_library_path()))
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def run(session: onnxruntime.InferenceSession, first: Any, second: Any) -> list[Any]:
    """All outputs."""
    names = [value.name for value in session.get_inputs()]
    return list(session.run(None, dict(zip(names, map(np.asarray, (first, second)), strict=True))))


def features(*shape: int, seed: int = 0) -> torch.Tensor:
    """Float64, from 0 to 1."""
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def selected(tensor: torch.Tensor, channels: list[int] | None, weights: list[float] | None) -> torch.Tensor:
    """As the definitions take features: selected and weighted."""
    if channels is not None:
        tensor = tensor[:, channels]
    if weights is not None:
        tensor = tensor * torch.tensor(weights, dtype=torch.float32).double()[:, None, None]
    return tensor
