"""The contextual loss and the channel distances in standard ONNX operators: precision, NaN, memory."""

import subprocess
import sys
import warnings

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from pe_runtime import reference as definitions
from pe_runtime.exporters.onnx_channel_distance import channel_distance_function
from pe_runtime.exporters.onnx_contextual import contextual_function
from pe_runtime.exporters.onnx_tidy import tidy
from pe_runtime.reference import CENTERS, DISTANCES, FORMS, ContextualSettings

pytestmark = pytest.mark.usefixtures("one_thread")


def model_of(function, inputs, outputs, shapes=(), inline=True):
    """A model of one call of a function; feature maps unless `shapes` says otherwise."""
    shapes = {name: ["B", "C", None, None] for name in inputs if name} | dict(shapes)
    shapes |= {outputs[0]: ["B"], outputs[1]: ["B", 1, None, None]}
    values = {
        name: helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()
    }
    node = helper.make_node(function.name, inputs, outputs, domain="pe_runtime")
    graph = helper.make_graph(
        [node], "g", [values[name] for name in inputs if name], [values[name] for name in outputs]
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("pe_runtime", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10, functions=[function])
    model = tidy(model, inline=inline)
    onnx.checker.check_model(model, full_check=True)
    return model


def contextual_model(constants, block_rows=7, inline=True):
    function = contextual_function(constants, block_rows, 18)
    return model_of(function, ["source", "target"], ["loss", "log_similarity"], inline=inline)


def run(model, **inputs):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    data = model.SerializeToString()
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    return session.run(None, {name: value.numpy() for name, value in inputs.items()})


def smooth(batch, channels, height, width, seed=0):
    """Features whose neighbours resemble each other, as those of photographs do."""
    drawn = torch.randn(batch, channels, height, width, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.avg_pool2d(drawn, 3, 1, 1) * 3


def check(constants, source, target, block_rows=7, rtol=1e-5, inline=True):
    loss, log_similarity = run(contextual_model(constants, block_rows, inline), source=source, target=target)
    true_loss, true_map = definitions.contextual_loss(source.double(), target.double(), constants)
    np.testing.assert_allclose(loss, true_loss.numpy(), rtol=rtol, atol=1e-12)
    np.testing.assert_allclose(np.exp(log_similarity), true_map.numpy(), rtol=1e-4, atol=1e-6)
    assert loss.dtype == log_similarity.dtype == np.float32


@pytest.mark.parametrize("noise", [0.01, 0.1, 1.0])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("spatial_weight", [0.0, 0.4])
@pytest.mark.parametrize("distance", DISTANCES)
def test_against_the_definition(distance, spatial_weight, form, noise):
    source = smooth(2, 5, 7, 6)
    target = source + noise * smooth(2, 5, 7, 6, seed=1)
    target[1] = target[1].flip(1)
    check(ContextualSettings(0.4, distance, "sample", spatial_weight, form=form), source, target)


@pytest.mark.parametrize("center", CENTERS)
@pytest.mark.parametrize("eps_log", [0.0, 1e-5])
def test_centres_and_eps(center, eps_log):
    source, target = smooth(3, 4, 5, 5), smooth(3, 4, 5, 5, seed=1)
    check(ContextualSettings(center=center, eps=2e-5, eps_log=eps_log), source, target)


@settings(max_examples=25, deadline=None)
@given(
    batch=st.integers(1, 3),
    channels=st.integers(1, 9),
    sizes=st.tuples(*[st.integers(1, 8)] * 4),
    block_rows=st.integers(1, 40),
    distance=st.sampled_from(DISTANCES),
)
def test_sizes_and_blocks(batch, channels, sizes, block_rows, distance):
    """Maps of unlike sizes, down to one position; blocks larger than the map and smaller than the batch."""
    source = smooth(batch, channels, *sizes[:2])
    target = smooth(batch, channels, *sizes[2:], seed=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check(ContextualSettings(distance=distance, spatial_weight=0.1), source, target, block_rows, 1e-4)


@pytest.mark.parametrize("noise", [1e-2, 3e-2, 1e-1])
def test_losses_of_near_identical_features_have_their_digits(noise):
    """The smallest of these is 1e-9; 1 - cos in float32 would be noise there."""
    target = smooth(1, 48, 12, 12)
    source = target + noise * torch.randn(target.shape, generator=torch.Generator().manual_seed(2))
    true_loss, _ = definitions.contextual_loss(source.double(), target.double(), ContextualSettings())
    loss, _ = run(contextual_model(ContextualSettings(), 50), source=source, target=target)
    assert loss[0] == pytest.approx(true_loss.item(), rel=1e-4, abs=1e-13)


def test_identical_and_constant_features():
    features = smooth(1, 6, 5, 4)
    loss, log_similarity = run(contextual_model(ContextualSettings()), source=features, target=features)
    assert loss[0] == 0
    assert not log_similarity.any()
    flat = torch.ones(1, 6, 5, 4)
    loss, _ = run(contextual_model(ContextualSettings()), source=flat, target=flat)
    assert loss[0] == pytest.approx(np.log(20))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("distance", DISTANCES)
def test_nan_stays_in_its_sample(distance, value):
    source, target = smooth(3, 4, 5, 5), smooth(3, 4, 5, 5, seed=1)
    clean = run(contextual_model(ContextualSettings(distance=distance)), source=source, target=target)
    source[0, 2, 3, 1] = value
    target[2, 0, 0, 0] = value
    dirty = run(contextual_model(ContextualSettings(distance=distance)), source=source, target=target)
    for before, after in zip(clean, dirty, strict=True):
        assert np.isnan(after[[0, 2]]).all()
        np.testing.assert_array_equal(after[1], before[1])


def test_as_a_function_and_inlined():
    source, target = smooth(2, 5, 7, 6), smooth(2, 5, 6, 7, seed=1)
    for inline in (True, False):
        check(ContextualSettings(), source, target, inline=inline)


def test_dead_nodes_are_gone():
    """Of the text for every distance only what the one needs is left."""
    operators = {
        distance: {
            node.op_type for node in contextual_model(ContextualSettings(distance=distance)).graph.node
        }
        for distance in DISTANCES
    }
    assert "ReduceSumSquare" in operators["l2"] - operators["cosine"]
    assert "ReduceL2" in operators["cosine"] - operators["l2"] - operators["l1"]
    assert not any("Range" in used for used in operators.values())
    assert "MatMul" not in {
        node.op_type
        for node in next(
            attribute.g
            for node in contextual_model(ContextualSettings(distance="l1")).graph.node
            if node.op_type == "Loop"
            for attribute in node.attribute
        ).node
    }


def test_memory_is_bounded_by_the_block(tmp_path):
    """9216 positions: one matrix of all pairs would be 340 MB."""
    path = tmp_path / "m.onnx"
    onnx.save(contextual_model(ContextualSettings(), block_rows=16), path)
    code = """
import resource, sys, numpy, onnxruntime
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
drawn = numpy.random.default_rng(0)
for side in (8, 96):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    source, target = (drawn.standard_normal((1, 4, side, side), dtype=numpy.float32) for _ in range(2))
    session.run(["loss"], {"source": source, "target": target})
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, path], capture_output=True, text=True, check=True, timeout=120
    )
    assert int(done.stdout) * 1024 < 100e6


@pytest.mark.parametrize("inline", [True, False])
@pytest.mark.parametrize(("form", "linear"), [("squared", False), ("unit", False), ("unit", True)])
def test_channel_distance(form, linear, inline):
    first, second = smooth(2, 5, 6, 7), smooth(2, 5, 6, 7, seed=1)
    first[0, :, 2, 3] = 0  # a vector of length 0
    factors = torch.tensor([0.5, 0.0, 2.0, 1.0, 3.0]) if linear else None
    function = channel_distance_function(form, linear, 18)
    inputs = ["first", "second", "", "", "linear"] if linear else ["first", "second"]
    shapes = {"linear": ["C"]} if linear else {}
    model = model_of(function, inputs, ["distance", "map"], shapes, inline)
    feeds = {"first": first, "second": second} | ({"linear": factors} if linear else {})
    distance, difference = run(model, **feeds)
    if form == "squared":
        expected = definitions.feature_difference(first, second)
    else:
        expected = definitions.lpips_difference(first, second, factors)
    np.testing.assert_allclose(difference, expected.numpy(), rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(distance, expected.mean(dim=(1, 2, 3)).numpy(), rtol=1e-5)
