"""Sessions with the library and without, and where the library is."""

import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper

sys.path.insert(0, str(Path(__file__).parent))
from ort_helpers import features, operator_model, run, session_of

import pe_runtime as pe
from pe_runtime import ort

PAIR = features(2, 4, 6, 5), features(2, 4, 6, 5, seed=1)


def with_function(offset: float):
    """Eq. 1 with a function in standard operators, whose distance is too large by `offset`."""
    nodes = [
        helper.make_node("Sub", ["first", "second"], ["difference"]),
        helper.make_node("Mul", ["difference", "difference"], ["square"]),
        helper.make_node("ReduceMean", ["square", "over_channels"], ["map"]),
        helper.make_node("ReduceMean", ["map", "over_all"], ["mean"], keepdims=0),
        helper.make_node("Add", ["mean", "offset"], ["distance"]),
    ]
    values = {"over_channels": [1], "over_all": [1, 2, 3], "offset": offset}
    constants = [
        helper.make_node("Constant", [], [name], **{_kind(value): value}) for name, value in values.items()
    ]
    function = helper.make_function(
        "pe_runtime",
        "ChannelDistance",
        ["first", "second"],
        ["distance", "map"],
        [*constants, *nodes],
        [helper.make_opsetid("", 18)],
    )
    return operator_model("ChannelDistance", functions=[function])


def _kind(value):
    return "value_float" if isinstance(value, float) else "value_ints"


def test_function_of_the_file_serves_where_there_is_no_library():
    (expected, map_) = run(session_of(operator_model("ChannelDistance")), *PAIR)
    model = with_function(100.0).SerializeToString()
    distance, function_map = run(pe.open_session(model, fused=False), *PAIR)
    np.testing.assert_allclose(distance, expected + 100, rtol=1e-6)
    np.testing.assert_allclose(function_map, map_, rtol=1e-5)
    for fused in ("auto", True):
        np.testing.assert_array_equal(run(pe.open_session(model, fused=fused), *PAIR)[0], expected)


def test_kernels_that_no_hardware_has_run_are_opt_in(monkeypatch):
    """As with the CUDA provider, for which the CPU's stands in."""
    assert ort._OPT_IN == ("CUDAExecutionProvider",)
    monkeypatch.setattr(ort, "_OPT_IN", ("CPUExecutionProvider",))
    ort._say_opt_in.cache_clear()
    model = with_function(100.0).SerializeToString()
    with pytest.warns(UserWarning, match="by standard operators on this GPU, .*; fused=True chooses"):
        assert run(pe.open_session(model), *PAIR)[0][0] > 100
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert run(pe.open_session(model), *PAIR)[0][0] > 100
        assert run(pe.open_session(model, fused=True), *PAIR)[0][0] < 100
    ort._say_opt_in.cache_clear()


def test_session_of_a_path(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(operator_model("ContextualLoss").SerializeToString())
    expected = run(session_of(operator_model("ContextualLoss")), *PAIR)
    for name in (path, str(path)):
        np.testing.assert_array_equal(run(pe.open_session(name, threads=2), *PAIR)[0], expected[0])


def test_missing_library(monkeypatch, tmp_path):
    model = with_function(100.0).SerializeToString()
    monkeypatch.setattr(ort, "_LIBRARY", tmp_path / "libpe_runtime_ort.so")
    with pytest.raises(RuntimeError, match=r"without its ONNX Runtime library, .*libpe_runtime_ort\.so"):
        pe.ort_library_path()
    with pytest.raises(RuntimeError, match=r"fused: True is not possible: .*libpe_runtime_ort\.so"):
        pe.open_session(model, fused=True)
    assert run(pe.open_session(model), *PAIR)[0][0] > 100


def test_broken_library(monkeypatch, tmp_path):
    model = with_function(100.0).SerializeToString()
    library = tmp_path / "libpe_runtime_ort.so"
    library.write_bytes(b"no library")
    monkeypatch.setattr(ort, "_LIBRARY", library)
    with pytest.raises(RuntimeError, match="fused: True is not possible"):
        pe.open_session(model, fused=True)
    with pytest.warns(RuntimeWarning, match=r"without its ONNX Runtime library"):
        session = pe.open_session(model)
    assert run(session, *PAIR)[0][0] > 100


def test_models_without_the_operators_need_no_library(monkeypatch, tmp_path):
    graph = helper.make_graph(
        [helper.make_node("Sub", ["a", "b"], ["c"])],
        "test",
        [helper.make_tensor_value_info(name, TensorProto.DOUBLE, ["n"]) for name in "ab"],
        [helper.make_tensor_value_info("c", TensorProto.DOUBLE, ["n"])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    library = tmp_path / "libpe_runtime_ort.so"
    library.write_bytes(b"no library, and it is not looked at")
    monkeypatch.setattr(ort, "_LIBRARY", library)
    (difference,) = run(pe.open_session(model.SerializeToString()), np.ones(2), np.zeros(2))
    np.testing.assert_array_equal(difference, np.ones(2))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threads": -1}, "threads: expected 0"),
        ({"fused": "yes"}, "fused: expected 'auto', True or False, got 'yes'"),
        ({"provider": "abacus"}, "provider: expected one of .*'cpu'.*, got 'abacus'"),
    ],
)
def test_options_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        pe.open_session(operator_model("ContextualLoss").SerializeToString(), **options)


def test_no_model(tmp_path):
    with pytest.raises(ValueError, match=r"^model: expected a valid ONNX file"):
        pe.open_session(b"no model")
    with pytest.raises(ValueError, match=r"^metric: expected a graph that ONNX Runtime loads"):
        pe.open_session(b"no model", fused=False, name="metric")
    with pytest.raises(FileNotFoundError):
        pe.open_session(tmp_path / "missing.onnx")
    # Without the library the model has an operator that ONNX Runtime does not know.
    with pytest.raises(ValueError, match=r"expected a graph that ONNX Runtime loads: .*pe_runtime"):
        pe.open_session(operator_model("ContextualLoss").SerializeToString(), fused=False)


@pytest.mark.parametrize("op", ["ContextualLoss", "ChannelDistance"])
@pytest.mark.parametrize("weights", [None, [1.0] * 4])
def test_shapes_are_inferred(op, weights):
    # Without an inferred batch size ONNX Runtime knows nothing of the output.
    session = session_of(operator_model(op, weights=weights))
    assert session.get_outputs()[0].shape == ["b"]
    shapes = ((3, 4, 8, 8), (3, 4, 8, 8))
    assert session_of(operator_model(op, weights=weights, shapes=shapes)).get_outputs()[0].shape == [3]


def test_library_is_found_without_torch_and_onnx_runtime():
    script = (
        "import sys, pe_runtime; path = pe_runtime.ort_library_path(); pe_runtime.open_session\n"
        "assert path.is_file() and path.name == 'libpe_runtime_ort.so'\n"
        "assert not {'torch', 'onnxruntime', 'onnx'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_sessions_may_share_options():
    options = onnxruntime.SessionOptions()
    options.register_custom_ops_library(str(pe.ort_library_path()))
    model = operator_model("ContextualLoss").SerializeToString()
    providers = ["CPUExecutionProvider"]
    sessions = [onnxruntime.InferenceSession(model, options, providers=providers) for _ in range(2)]
    del options
    results = [run(session, *PAIR)[0] for session in sessions]
    np.testing.assert_array_equal(*results)
