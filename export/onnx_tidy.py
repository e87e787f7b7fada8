"""What is done to a recorded graph so that nothing is in it that a runtime does not need."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir
import onnx_ir.passes.common as passes

from pe_runtime.exporters.recorded import DOMAIN


def merge_pools(model: onnx.ModelProto) -> None:
    """Let max pools round up their size themselves, where the exporter pads for it; in place.

    The padding, by -inf, is a copy of the largest feature map. (It is there for pools that pad themselves
    too: runtimes differ in where their last window may begin. In those that do not, it begins inside.)
    """
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    pads = {node.output[0]: node for node in model.graph.node if node.op_type == "Pad"}
    reads = [name for node in model.graph.node for name in node.input]
    for pool in model.graph.node:
        if pool.op_type != "MaxPool" or pool.input[0] not in pads or reads.count(pool.input[0]) > 1:
            continue
        pad = pads[pool.input[0]]
        amounts, value = (onnx.numpy_helper.to_array(constants[name]) for name in pad.input[1:3])
        attributes = {attribute.name: attribute for attribute in pool.attribute}
        kernel, strides = attributes["kernel_shape"].ints, attributes["strides"].ints
        rounds_up = [0] * 6 + [stride - 1 for stride in strides]
        inside = all(stride <= size for stride, size in zip(strides, kernel, strict=True))
        unpadded = not any(attributes["pads"].ints)
        if value == -np.inf and amounts.tolist() == rounds_up and inside and unpadded:
            attributes["ceil_mode"].i = 1
            pool.input[0] = pad.input[0]
            model.graph.node.remove(pad)


def store_half(model: onnx.ModelProto) -> None:
    """Store in float16, in place, the weights of convolutions that are exact in it.

    Runtimes widen them once, on loading.
    """
    weights = {node.input[1] for node in model.graph.node if node.op_type == "Conv"}
    for tensor in model.graph.initializer:
        values = onnx.numpy_helper.to_array(tensor) if tensor.name in weights else np.zeros(0)
        with np.errstate(over="ignore"):
            halves = values.astype(np.float16)
        if values.dtype == np.float32 and np.array_equal(halves, values):
            name = tensor.name
            tensor.CopyFrom(onnx.numpy_helper.from_array(halves, f"{name}.float16"))
            cast = onnx.helper.make_node("Cast", [tensor.name], [name], to=onnx.TensorProto.FLOAT)
            model.graph.node.insert(0, cast)


def tidy(model: onnx.ModelProto, *, inline: bool) -> onnx.ModelProto:
    """The graph without dead nodes and second copies, and without notes on where and how it was made.

    Args:
        model: may be changed.
        inline: put the nodes of functions in the places of the fused operators.
    """
    representation = onnx_ir.from_proto(model)
    onnx_ir.passes.Sequential(
        # Stack traces, with the paths of this machine.
        passes.ClearMetadataAndDocStringPass(),
        *([passes.InlinePass()] if inline else []),
        passes.IdentityEliminationPass(),
        passes.RemoveUnusedNodesPass(),
        passes.RemoveUnusedFunctionsPass(),
        passes.RemoveUnusedOpsetsPass(),
        passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        passes.LiftSubgraphInitializersToMainGraphPass(),
        passes.DeduplicateInitializersPass(),
        passes.CommonSubexpressionEliminationPass(),
        passes.RemoveUnusedNodesPass(),
        passes.NameFixPass(),
        passes.ClearMetadataAndDocStringPass(),
    )(representation)
    tidied: onnx.ModelProto = onnx_ir.to_proto(representation)
    tidied.producer_name = "pe_runtime"
    _drop_unread_maps(tidied)
    return tidied


def _drop_unread_maps(model: onnx.ModelProto) -> None:
    """Leave out, in place, the second output of fused operators where nothing reads it."""
    read = {name for node in model.graph.node for name in node.input}
    read |= {value.name for value in model.graph.output}
    for node in model.graph.node:
        if node.domain == DOMAIN and node.output[-1] not in read:
            node.output[-1] = ""
