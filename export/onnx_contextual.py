"""The contextual loss in standard ONNX operators: a loop over blocks of rows, never an N x N matrix.

The text is in ONNX's textual syntax (https://onnx.ai/onnx/repo-docs/Syntax.html). Feature maps are (B, C, H,
W) in float32, N is H x W; names that end in 64 are float64. Lines that a metric does not need are removed
with the other dead nodes of its graph.
"""

from __future__ import annotations

import onnx

from pe_runtime.exporters.onnx_text import constants, function
from pe_runtime.exporters.recorded import CONTEXTUAL
from pe_runtime.reference import ContextualSettings


def contextual_function(settings: ContextualSettings, block_rows: int, opset: int) -> onnx.FunctionProto:
    """ContextualLoss (source, target) => (loss, log_similarity); see `reference.contextual_similarity`.

    A block has block_rows / B rows (source positions) of each sample of a batch, but at least one, so that it
    has block_rows x N elements; for L1, whose elements are C differences each, block_rows / (B C) rows.

    Cosine and squared Euclidean distances are one matrix product in float64: of near-identical features
    1 - cos is 1e-4 and less, which float32 gets to three digits, and the loss divides by it. From there on
    blocks are float32. The nearest target is kept out of its row's sum, and what is averaged is expm1, so
    that a loss of 1e-6 has its digits.

    Args:
        settings: the constants; `symmetric` is not looked at, for it is two calls.
        block_rows: at least 1.
        opset: version of the standard operators.
    """
    l1, spatial = settings.distance == "l1", settings.spatial_weight > 0
    # Squared distances do not depend on the centre, but what cancels in them is smaller around the mean.
    center = settings.center if settings.distance == "cosine" else "sample"
    channels = [*_CHANNELS[settings.distance], *(_PLACE_CHANNELS if spatial else ())]
    block = _BLOCK_PRODUCT * bool(channels) + _BLOCK_L1 * l1 + _MINUS_L1[spatial] * l1
    body = [
        _constants(settings, block_rows),
        _both(_SHAPES),
        _both(_OPERANDS).replace("MEAN_AXES", "batch_axes" if center == "batch" else "position_axes"),
        _both(_PLACES),
        _matrices(channels),
        _L1_OPERANDS,
        _ROWS.replace("COPIES", "differences" if l1 else "source_batch"),
        _LOOP.replace("BLOCK", block).replace("NEGATIVE", "minus_l1" if l1 else "product"),
        _SHORTFALL,
        _LOSS[settings.form],
        _RESULTS.replace("CHECKED", _CHECKED[settings.distance]).replace(
            "all_but_batch", "flat_axes" if l1 else "sample_axes"
        ),
    ]
    head = f"{CONTEXTUAL} <{_ATTRIBUTES}> (source, target) => (loss, log_similarity)"
    return function(head, "\n".join(body).replace("MOVED", _MOVED[center]), opset)


_ATTRIBUTES = "bandwidth, distance, center, spatial_weight, form, eps, eps_log"


def _both(lines: str) -> str:
    """Each line for the source and for the target."""
    return "\n".join(
        line.replace("IMAGE", image) for line in lines.splitlines() for image in ("source", "target")
    )


def _matrices(channels: list[tuple[str, str]]) -> str:
    """The factors of a product, (B, Nx, K) and (B, K, Ny), from maps of the source and of the target."""
    if not channels:
        return ""
    sources, targets = (", ".join(side) for side in zip(*channels, strict=True))
    return f"""
        source_map_64 = Concat <axis = 1> ({sources.replace("IMAGE", "source")})
        target_map_64 = Concat <axis = 1> ({targets.replace("IMAGE", "target")})
        source_flat_64 = Reshape (source_map_64, flat)
        source_matrix_64 = Transpose <perm = [0, 2, 1]> (source_flat_64)
        target_matrix_64 = Reshape (target_map_64, flat)
    """


def _constants(settings: ContextualSettings, block_rows: int) -> str:
    return constants(
        int64={"zero": 0, "one": 1},
        float={
            "never": -1e30,  # below any scaled distance; e to it is 0
            "eps": settings.eps,
            "inverse_bandwidth": 1 / settings.bandwidth,
        },
        double={
            "one_64": 1,
            "half_64": 0.5,
            "least_length_64": 1e-6,
            "one_and_eps_log_64": 1 + settings.eps_log,
            "spatial_weight_64": settings.spatial_weight,
        },
        lists={
            "single": [1],
            "block_rows": [block_rows],
            "channel_axis": [1],
            "row_axis": [1],
            "third_axis": [2],
            "fourth_axis": [3],
            "batch_axes": [0, 2, 3],
            "position_axes": [2, 3],
            "sample_axes": [1, 2, 3],
            "flat_axes": [1, 2],
            "flat": [0, 0, -1],
            "as_rows": [1, 1, -1, 1],
            "as_columns": [1, 1, 1, -1],
            "sample_map": [-1, 1, 1, 1],
        },
    )


_SHAPES = """
    IMAGE_batch = Shape <end = 1> (IMAGE)
    IMAGE_size = Shape <start = 2> (IMAGE)
    IMAGE_map_shape = Concat <axis = 0> (IMAGE_batch, single, IMAGE_size)
    IMAGE_positions = ReduceProd <keepdims = 1> (IMAGE_size)
"""

# What is compared: moved to the mean of the target, or not.
_MOVED = {"sample": "centred_64", "batch": "centred_64", "none": "64"}
_OPERANDS = """
    IMAGE_64 = Cast <to = 11> (IMAGE)
    IMAGE_mean_64 = ReduceMean <keepdims = 1> (target_64, MEAN_AXES)
    IMAGE_centred_64 = Sub (IMAGE_64, IMAGE_mean_64)
    IMAGE_length_64 = ReduceL2 <keepdims = 1> (IMAGE_MOVED, channel_axis)
    IMAGE_divisor_64 = Max (IMAGE_length_64, least_length_64)
    IMAGE_unit_64 = Div (IMAGE_MOVED, IMAGE_divisor_64)
    IMAGE_square_64 = ReduceSumSquare <keepdims = 1> (IMAGE_MOVED, channel_axis)
    IMAGE_minus_square_64 = Neg (IMAGE_square_64)
    IMAGE_twice_64 = Add (IMAGE_MOVED, IMAGE_MOVED)
    IMAGE_ones_64 = Expand (one_64, IMAGE_map_shape)
    IMAGE_minus_ones_64 = Neg (IMAGE_ones_64)
"""

# Centres of the positions in the unit square.
_PLACES = """
    IMAGE_size_64 = Cast <to = 11> (IMAGE_size)
    IMAGE_height, IMAGE_width = Split <axis = 0, num_outputs = 2> (IMAGE_size)
    IMAGE_height_64, IMAGE_width_64 = Split <axis = 0, num_outputs = 2> (IMAGE_size_64)
    IMAGE_last_row = Squeeze (IMAGE_height)
    IMAGE_last_column = Squeeze (IMAGE_width)
    IMAGE_row_numbers = Range (zero, IMAGE_last_row, one)
    IMAGE_column_numbers = Range (zero, IMAGE_last_column, one)
    IMAGE_row_numbers_64 = Cast <to = 11> (IMAGE_row_numbers)
    IMAGE_column_numbers_64 = Cast <to = 11> (IMAGE_column_numbers)
    IMAGE_row_centres_64 = Add (IMAGE_row_numbers_64, half_64)
    IMAGE_column_centres_64 = Add (IMAGE_column_numbers_64, half_64)
    IMAGE_rows_64 = Div (IMAGE_row_centres_64, IMAGE_height_64)
    IMAGE_columns_64 = Div (IMAGE_column_centres_64, IMAGE_width_64)
    IMAGE_row_axis_64 = Reshape (IMAGE_rows_64, as_rows)
    IMAGE_column_axis_64 = Reshape (IMAGE_columns_64, as_columns)
    IMAGE_row_map_64 = Expand (IMAGE_row_axis_64, IMAGE_map_shape)
    IMAGE_column_map_64 = Expand (IMAGE_column_axis_64, IMAGE_map_shape)
    IMAGE_place_64 = Concat <axis = 1> (IMAGE_row_map_64, IMAGE_column_map_64)
    IMAGE_weighted_place_64 = Mul (IMAGE_place_64, spatial_weight_64)
    IMAGE_place_squares_64 = Mul (IMAGE_weighted_place_64, IMAGE_place_64)
    IMAGE_place_square_64 = ReduceSum <keepdims = 1> (IMAGE_place_squares_64, channel_axis)
    IMAGE_twice_place_64 = Add (IMAGE_weighted_place_64, IMAGE_weighted_place_64)
    IMAGE_minus_place_square_64 = Neg (IMAGE_place_square_64)
"""

# Channels of the source and of the target, whose products add up to the negative distance.
_CHANNELS = {
    "cosine": [("IMAGE_unit_64", "IMAGE_unit_64"), ("IMAGE_ones_64", "IMAGE_minus_ones_64")],
    "l2": [
        ("IMAGE_twice_64", "IMAGE_MOVED"),
        ("IMAGE_square_64", "IMAGE_minus_ones_64"),
        ("IMAGE_ones_64", "IMAGE_minus_square_64"),
    ],
    "l1": [],
}
_PLACE_CHANNELS = [
    ("IMAGE_twice_place_64", "IMAGE_place_64"),
    ("IMAGE_place_square_64", "IMAGE_minus_ones_64"),
    ("IMAGE_ones_64", "IMAGE_minus_place_square_64"),
]

_L1_OPERANDS = """
    source_flat = Reshape (source, flat)
    target_flat = Reshape (target, flat)
    target_columns = Unsqueeze (target_flat, third_axis)
    channels = Shape <start = 1, end = 2> (source)
    differences = Mul (source_batch, channels)
"""

_ROWS = """
    affordable_rows = Div (block_rows, COPIES)
    some_rows = Max (affordable_rows, single)
    rows = Min (some_rows, source_positions)
    padded_positions = Add (source_positions, rows)
    last_position = Sub (padded_positions, single)
    block_count = Div (last_position, rows)
    blocks = Squeeze (block_count)
    last_start = Sub (source_positions, rows)
    similarity_shape = Concat <axis = 0> (target_batch, target_positions)
    block_shape = Concat <axis = 0> (target_batch, rows, target_positions)
    no_nearest = Expand (never, similarity_shape)
    no_others = Expand (never, block_shape)
"""

# Carried along is log max_i CX_ij. Of a row that is -log Z_i at its nearest target, by a scatter; for the
# other targets, among which the nearest is hidden, it is what is left of their exponents. These are kept as
# the maxima of whole blocks: reductions over rows are slow. So blocks are of one size, and the last one
# repeats rows of the one before.
_LOOP = """
    best_nearest, best_others = Loop (blocks, , no_nearest, no_others) <body = block (
        int64 index, bool go, float[B, N] nearest_before, float[B, R, N] others_before)
        => (bool go_on, float[B, N] nearest_after, float[B, R, N] others_after) {
        go_on = Identity (go)
        next_start = Mul (index, rows)
        start = Min (next_start, last_start)
        end = Add (start, rows)
        BLOCK
        nearest = ArgMax <axis = 2, keepdims = 1> (NEGATIVE)
        minus_least = GatherElements <axis = 2> (NEGATIVE, nearest)
        least_and_eps = Sub (eps, minus_least)
        factor = Div (inverse_bandwidth, least_and_eps)
        beyond_least = Sub (NEGATIVE, minus_least)
        exponents = Mul (beyond_least, factor)
        hidden = Add (minus_least, never)
        others = ScatterElements <axis = 2> (exponents, nearest, hidden)
        terms = Exp (others)
        sum_of_others = ReduceSum <keepdims = 1> (terms, third_axis)
        sum_of_others_64 = Cast <to = 11> (sum_of_others)
        z_64 = Add (sum_of_others_64, one_64)
        log_z_64 = Log (z_64)
        log_z = Cast <to = 1> (log_z_64)
        log_others = Sub (others, log_z)
        others_after = Max (others_before, log_others)
        log_nearest = Neg (log_z)
        nearest_columns = Squeeze (nearest, third_axis)
        log_nearest_row = Squeeze (log_nearest, third_axis)
        nearest_after = ScatterElements <axis = 1, reduction = "max"> (
            nearest_before, nearest_columns, log_nearest_row)
    }>
    best_of_others = ReduceMax <keepdims = 0> (best_others, row_axis)
    best = Max (best_nearest, best_of_others)
"""

_BLOCK_PRODUCT = """
        block_64 = Slice (source_matrix_64, start, end, row_axis)
        product_64 = MatMul (block_64, target_matrix_64)
        product = Cast <to = 1> (product_64)
"""
_BLOCK_L1 = """
        block = Slice (source_flat, start, end, third_axis)
        block_rows = Unsqueeze (block, fourth_axis)
        difference = Sub (block_rows, target_columns)
        absolute = Abs (difference)
        sum_of_differences = ReduceSum <keepdims = 0> (absolute, channel_axis)
"""
# Without and with a product of places.
_MINUS_L1 = (
    "        minus_l1 = Neg (sum_of_differences)",
    "        minus_l1 = Sub (product, sum_of_differences)",
)

# CX - 1 is a mean of expm1.
_SHORTFALL = """
    best_64 = Cast <to = 11> (best)
    similarity_64 = Exp (best_64)
    shortfalls_64 = Sub (similarity_64, one_64)
    shortfall_64 = ReduceMean <keepdims = 0> (shortfalls_64, channel_axis)
"""
_LOSS = {
    "log": """
        cx_64 = Add (shortfall_64, one_and_eps_log_64)
        log_cx_64 = Log (cx_64)
        loss_64 = Neg (log_cx_64)
    """,
    "one_minus": "loss_64 = Neg (shortfall_64)",
}

# Maxima may pass over NaN: what has NaN or infinity in it gets NaN here.
_CHECKED = {"cosine": "length_64", "l2": "square_64", "l1": "flat"}
_RESULTS = """
    exact_loss = Cast <to = 1> (loss_64)
    source_sum = ReduceSum <keepdims = 0> (source_CHECKED, all_but_batch)
    target_sum = ReduceSum <keepdims = 0> (target_CHECKED, all_but_batch)
    checked = Add (source_sum, target_sum)
    checked_32 = Cast <to = 1> (checked)
    nothing = Sub (checked_32, checked_32)
    loss = Add (exact_loss, nothing)
    log_similarity_map = Reshape (best, target_map_shape)
    nothing_map = Reshape (nothing, sample_map)
    log_similarity = Add (log_similarity_map, nothing_map)
"""
