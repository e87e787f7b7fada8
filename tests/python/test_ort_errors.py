"""What the operators in ONNX Runtime refuse, each with a message and in a process that goes on."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto

sys.path.insert(0, str(Path(__file__).parent))
from ort_helpers import features, operator_model, run, session_of

PAIR = (2, 4, 6, 5)


@pytest.mark.parametrize(
    ("op", "attributes", "message"),
    [
        ("ContextualLoss", {"bandwidth": 0.0}, "bandwidth: expected a finite number above 0, got 0"),
        ("ContextualLoss", {"bandwidth": float("nan")}, "bandwidth: expected a finite number above 0"),
        ("ContextualLoss", {"bandwidth": 1}, "bandwidth: expected a floating-point number, got an attribute"),
        ("ContextualLoss", {"bandwidth": [0.5]}, "bandwidth: expected a floating-point number"),
        ("ContextualLoss", {"eps": -1.0}, "eps: expected a finite number above 0, got -1"),
        ("ContextualLoss", {"eps_log": -1.0}, "eps_log: expected a finite number >= 0, got -1"),
        ("ContextualLoss", {"spatial_weight": float("inf")}, "spatial_weight: expected a finite number >= 0"),
        ("ContextualLoss", {"distance": "l1"}, "distance: expected one of 'cosine', 'l2', got 'l1'"),
        ("ContextualLoss", {"distance": 2.0}, "distance: expected a string, got an attribute"),
        ("ContextualLoss", {"center": ""}, "center: expected one of 'sample', 'batch', 'none', got ''"),
        ("ContextualLoss", {"form": "unit"}, "form: expected one of 'log', 'one_minus', got 'unit'"),
        ("ChannelDistance", {"form": "log"}, "form: expected one of 'squared', 'unit', got 'log'"),
    ],
)
def test_attributes_are_checked_when_a_model_is_loaded(op, attributes, message):
    with pytest.raises(Exception, match=f"{op}: {re.escape(message)}"):
        session_of(operator_model(op, **attributes))


@pytest.mark.parametrize(
    ("op", "constants", "shapes", "message"),
    [
        ("ContextualLoss", {}, (PAIR, (1, 4, 6, 5)), "source and target: expected the same batch"),
        ("ContextualLoss", {}, (PAIR, (2, 3, 6, 5)), "expected the same batch size and channels"),
        ("ContextualLoss", {}, ((0, 4, 6, 5), (0, 4, 6, 5)), "source: expected a non-empty shape (B, C"),
        ("ContextualLoss", {}, (PAIR, (2, 4, 0, 5)), "target: expected a non-empty shape (B, C"),
        ("ContextualLoss", {"channels": [0, 4]}, None, "channels: expected numbers from 0 to 3, got 4"),
        ("ContextualLoss", {"channels": [-1]}, None, "channels: expected numbers from 0 to 3, got -1"),
        ("ContextualLoss", {"channels": [1, 1]}, None, "channels: expected each number once, got 1 twice"),
        ("ContextualLoss", {"channels": []}, None, "channels: expected shape (K,), K > 0, got (0)"),
        ("ContextualLoss", {"channels": [[1]]}, None, "channels: expected shape (K,), K > 0, got (1, 1)"),
        ("ContextualLoss", {"weights": [1, 1]}, None, "weights: expected one for each of 4 channels"),
        ("ContextualLoss", {"weights": [1, 1, 1, -1]}, None, "weights: expected finite numbers >= 0, got -1"),
        ("ContextualLoss", {"channels": [1], "weights": [np.nan]}, None, "weights: expected finite numbers"),
        ("ChannelDistance", {}, (PAIR, (2, 4, 5, 6)), "first and second: expected the same shape"),
        ("ChannelDistance", {"linear": [1] * 4}, None, "linear: expected none with form 'squared'"),
        ("ChannelDistance", {"weights": [1] * 4, "form": "unit"}, None, "weights: expected none with form"),
        ("ChannelDistance", {"linear": [1], "form": "unit"}, None, "linear: expected one for each of 4"),
    ],
)  # fmt: skip
def test_inputs_are_checked_in_a_run(op, constants, shapes, message):
    session = session_of(operator_model(op, **constants))
    first, second = shapes or (PAIR, PAIR)
    with pytest.raises(Exception, match=f"{op}: .*{re.escape(message)}"):
        run(session, features(*first), features(*second))
    if not constants:
        run(session, features(*PAIR), features(*PAIR))


def test_rank_is_checked():
    session = session_of(operator_model("ContextualLoss", shapes=(None, None)))
    with pytest.raises(Exception, match=r"source: expected a non-empty shape .*, got \(4, 6, 5\)"):
        run(session, features(4, 6, 5), features(4, 6, 5))
    run(session, features(*PAIR), features(*PAIR))


def test_two_types_are_refused():
    model = operator_model("ContextualLoss")
    model.graph.node[1].attribute[0].i = TensorProto.DOUBLE
    with pytest.raises(Exception, match="ContextualLoss"):
        session_of(model)
