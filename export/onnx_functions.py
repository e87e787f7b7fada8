"""Functions that stand in for the fused operators of a graph, in standard operators."""

from __future__ import annotations

import onnx

from pe_runtime.exporters.onnx_channel_distance import channel_distance_function
from pe_runtime.exporters.onnx_contextual import contextual_function
from pe_runtime.exporters.recorded import CHANNEL_DISTANCE, CONTEXTUAL, DOMAIN
from pe_runtime.reference import ContextualSettings


def add_functions(
    model: onnx.ModelProto, contextual: ContextualSettings | None, block_rows: int, opset: int
) -> None:
    """Give a graph a function for each fused operator in it, in place.

    An ONNX Runtime without the operator computes the function. It is specialised: one metric has one kind of
    node, always with the same attributes.

    Args:
        model: a recorded graph.
        contextual: the settings of its contextual losses, if it has any.
        block_rows: see `contextual_function`.
        opset: version of the standard operators.
    """
    nodes = {node.op_type: node for node in model.graph.node if node.domain == DOMAIN}
    if CONTEXTUAL in nodes and contextual is not None:
        model.functions.append(contextual_function(contextual, block_rows, opset))
    if CHANNEL_DISTANCE in nodes:
        node = nodes[CHANNEL_DISTANCE]
        form = next(attribute.s.decode() for attribute in node.attribute if attribute.name == "form")
        model.functions.append(channel_distance_function(form, len(node.input) == 5, opset))
