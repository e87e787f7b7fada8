"""Eq. 1 and the LPIPS form of one tap in standard ONNX operators, in ONNX's textual syntax."""

from __future__ import annotations

import onnx

from pe_runtime.exporters.onnx_text import constants, function
from pe_runtime.exporters.recorded import CHANNEL_DISTANCE


def channel_distance_function(form: str, linear: bool, opset: int) -> onnx.FunctionProto:
    """ChannelDistance (first, second) => (distance, map).

    See `reference.feature_difference` and `reference.lpips_difference`.

    Args:
        form: "squared" or "unit".
        linear: whether there are weights of the channels' squared differences, the fifth input.
        opset: version of the standard operators.
    """
    inputs = "first, second, channels, weights, linear" if linear else "first, second"
    head = f"{CHANNEL_DISTANCE} <form> ({inputs}) => (distance, differences)"
    return function(head, _CONSTANTS + _FORMS[form][linear] + _MEAN, opset)


_CONSTANTS = constants(
    float={"least_length": 1e-10},
    lists={"channel_axis": [1], "linear_axes": [1, 2], "sample_axes": [1, 2, 3]},
)

_SQUARED = """
    difference = Sub (first, second)
    square = Mul (difference, difference)
    differences = ReduceMean <keepdims = 1> (square, channel_axis)
"""

_UNIT = """
    first_length = ReduceL2 <keepdims = 1> (first, channel_axis)
    second_length = ReduceL2 <keepdims = 1> (second, channel_axis)
    first_divisor = Max (first_length, least_length)
    second_divisor = Max (second_length, least_length)
    first_unit = Div (first, first_divisor)
    second_unit = Div (second, second_divisor)
    difference = Sub (first_unit, second_unit)
    square = Mul (difference, difference)
"""
_SUM = """
    differences = ReduceSum <keepdims = 1> (square, channel_axis)
"""
_WEIGHTED_SUM = """
    factors = Unsqueeze (linear, linear_axes)
    weighted = Mul (square, factors)
    differences = ReduceSum <keepdims = 1> (weighted, channel_axis)
"""

# Without and with weights.
_FORMS = {"squared": (_SQUARED,), "unit": (_UNIT + _SUM, _UNIT + _WEIGHTED_SUM)}

_MEAN = """
    distance = ReduceMean <keepdims = 0> (differences, sample_axes)
"""
