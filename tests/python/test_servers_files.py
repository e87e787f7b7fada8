"""The folders that `pe-runtime export triton` and `export mlserver` write, and the commands themselves."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper, numpy_helper

sys.path.insert(0, str(Path(__file__).parent))
from gate_helpers import WITHOUT_TORCH, run_python, save_model, write_metric
from server_helpers import add_verdict, write_fused

from pe_runtime.atomic import atomic_folder
from pe_runtime.cli import cli
from pe_runtime.exporters.mlserver import export_mlserver
from pe_runtime.exporters.triton import export_triton, model_config
from pe_runtime.gate.metric_file import read_metric

ROOT = Path(__file__).resolve().parents[2]


def parse_config(text):
    """The server's own schema: an unknown field or value is an error."""
    schema = pytest.importorskip("tritonclient.grpc.model_config_pb2")
    from google.protobuf import text_format

    return text_format.Parse(text, schema.ModelConfig())


@pytest.fixture
def metric(tmp_path):
    return write_metric(tmp_path / "metric.onnx")


@pytest.fixture
def library(tmp_path):
    path = tmp_path / "built" / "libpe_runtime_ort.so"
    path.parent.mkdir()
    path.write_bytes(b"\x7fELF operators")
    return path


def contents(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


@pytest.mark.parametrize("uint8", [False, True])
@pytest.mark.parametrize("has_map", [False, True])
def test_triton_config_describes_the_file(tmp_path, uint8, has_map):
    metric = write_metric(tmp_path / "m.onnx", uint8=uint8, has_map=has_map)
    folder = export_triton(metric, tmp_path / "models", max_batch=8, delay_us=500, instances=2, threads=3)
    assert folder == tmp_path / "models" / "m"
    assert set(contents(folder)) == {"config.pbtxt", "README.md", "1/model.onnx"}
    assert (folder / "1" / "model.onnx").read_bytes() == metric.read_bytes()

    schema = pytest.importorskip("tritonclient.grpc.model_config_pb2")
    config = parse_config((folder / "config.pbtxt").read_text())
    assert (config.name, config.backend, config.max_batch_size) == ("m", "onnxruntime", 8)
    assert config.default_model_filename == "model.onnx"
    kind, dims = (schema.TYPE_UINT8, [-1, -1, 3]) if uint8 else (schema.TYPE_FP32, [3, -1, -1])
    assert [(i.name, i.data_type, list(i.dims)) for i in config.input] == [
        ("reference", kind, dims),
        ("distorted", kind, dims),
    ]
    outputs = {o.name: (o.data_type, list(o.dims), o.HasField("reshape")) for o in config.output}
    assert outputs.pop("score") == (schema.TYPE_FP32, [1], True)
    assert outputs == ({"map": (schema.TYPE_FP32, [1, -1, -1], False)} if has_map else {})
    assert list(config.output[0].reshape.shape) == []
    assert config.dynamic_batching.max_queue_delay_microseconds == 500
    assert not any(i.allow_ragged_batch for i in config.input)
    (group,) = config.instance_group
    assert (group.count, group.kind) == (2, schema.ModelInstanceGroup.KIND_CPU)
    assert config.parameters["intra_op_thread_count"].string_value == "3"
    assert config.parameters["enable_mem_pattern"].string_value == "0"
    assert not config.HasField("model_operations")


def test_triton_verdict_is_a_boolean_output(tmp_path):
    metric = add_verdict(write_metric(tmp_path / "m.onnx", threshold=0.5), tmp_path / "verdict.onnx")
    schema = pytest.importorskip("tritonclient.grpc.model_config_pb2")
    config = parse_config(model_config(read_metric(metric), "m"))
    verdict = config.output[-1]
    assert (verdict.name, verdict.data_type, list(verdict.dims)) == ("verdict", schema.TYPE_BOOL, [1])


def test_triton_without_batching_has_the_shapes_of_the_file(metric):
    config = parse_config(model_config(read_metric(metric), "m", max_batch=0))
    assert config.max_batch_size == 0
    assert not config.HasField("dynamic_batching")
    assert list(config.input[0].dims) == [-1, 3, -1, -1]
    assert (list(config.output[0].dims), config.output[0].HasField("reshape")) == ([-1], False)


def test_triton_batch_of_one_needs_no_batcher(metric):
    assert not parse_config(model_config(read_metric(metric), "m", max_batch=1)).HasField("dynamic_batching")


def test_triton_on_the_gpu_computes_without_tf32(metric):
    schema = pytest.importorskip("tritonclient.grpc.model_config_pb2")
    config = parse_config(model_config(read_metric(metric), "m", gpu=True))
    assert config.instance_group[0].kind == schema.ModelInstanceGroup.KIND_GPU
    (accelerator,) = config.optimization.execution_accelerators.gpu_execution_accelerator
    assert (accelerator.name, dict(accelerator.parameters)) == ("cuda", {"use_tf32": "0"})


def test_triton_fused_metric_comes_with_its_library(tmp_path, metric, library):
    fused = write_fused(metric, tmp_path / "fused.onnx")
    folder = export_triton(fused, tmp_path / "models", library=library, server_path="/srv/models/")
    assert (folder / "libpe_runtime_ort.so").read_bytes() == library.read_bytes()
    config = parse_config((folder / "config.pbtxt").read_text())
    assert list(config.model_operations.op_library_filename) == ["/srv/models/fused/libpe_runtime_ort.so"]
    readme = (folder / "README.md").read_text()
    assert '-v "$PWD":/srv/models' in readme
    assert "/srv/models/fused/libpe_runtime_ort.so" in readme


def test_triton_library_is_copied_for_fused_metrics_only(tmp_path, metric, library):
    folder = export_triton(metric, tmp_path / "models", library=library)
    assert not (folder / "libpe_runtime_ort.so").exists()


def test_triton_fused_metric_without_a_library_is_refused(tmp_path, metric):
    fused = write_fused(metric, tmp_path / "fused.onnx")
    with pytest.raises(FileNotFoundError):
        export_triton(fused, tmp_path / "models", library=tmp_path / "missing.so")
    assert list((tmp_path / "models").iterdir()) == []


def test_triton_library_of_the_installation(tmp_path, metric):
    from pe_runtime.ort import ort_library_path

    try:
        library = ort_library_path()
    except RuntimeError as error:
        pytest.skip(str(error))
    folder = export_triton(write_fused(metric, tmp_path / "fused.onnx"), tmp_path / "models")
    assert (folder / "libpe_runtime_ort.so").read_bytes() == library.read_bytes()


def test_readmes_have_the_run_command(tmp_path, metric):
    triton = (export_triton(metric, tmp_path / "models") / "README.md").read_text()
    command = triton.replace("\\\n", " ")
    assert "docker run --rm" in command
    assert "tritonserver --model-repository=/models" in command
    assert "| output `score` | FP32 | (?, 1) |" in triton
    mlserver = (export_mlserver(metric, tmp_path / "server") / "README.md").read_text()
    assert "mlserver start FOLDER" in mlserver
    assert "| output `score` | FP32 | (?) |" in mlserver
    assert "| input `reference` | FP32 | (?, 3, ?, ?) |" in mlserver
    for text in (triton, mlserver):
        assert str(tmp_path) not in text
        example = text.split("```python\n")[1].split("```")[0]
        compile(example, "README.md", "exec")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_batch": -1}, "max_batch: expected 0 or more, got -1"),
        ({"delay_us": -1}, "delay_us: expected 0 or more, got -1"),
        ({"instances": 0}, "instances: expected 1 or more, got 0"),
        ({"threads": -2}, "threads: expected 0 or more, got -2"),
        ({"name": "../up"}, "name: expected letters"),
        ({"name": ""}, "name: expected letters"),
        ({"name": ".hidden"}, "name: expected letters"),
    ],
)
def test_triton_options_out_of_range(tmp_path, metric, options, message):
    with pytest.raises(ValueError, match=message):
        export_triton(metric, tmp_path / "models", **options)
    assert not (tmp_path / "models").exists()


def test_triton_server_path_is_absolute(tmp_path, metric, library):
    fused = write_fused(metric, tmp_path / "fused.onnx")
    with pytest.raises(ValueError, match="server_path: expected an absolute path, got 'models/fused"):
        export_triton(fused, tmp_path / "models", library=library, server_path="models")


def test_fixed_batch_size_leaves_nothing_to_batch(tmp_path):
    metric = read_metric(fixed_batch(tmp_path / "m.onnx"))
    with pytest.raises(ValueError, match="max_batch: expected 0, because the batch size"):
        model_config(metric, "m")
    assert list(parse_config(model_config(metric, "m", max_batch=0)).input[0].dims) == [1, 3, -1, -1]


def test_mlserver_settings(tmp_path, metric):
    folder = export_mlserver(
        metric, tmp_path / "server", name="eq1", http_port=9000, threads=2, concurrency=3, max_pixels=10**6
    )
    assert set(contents(folder)) == {"settings.json", "model-settings.json", "model.onnx", "README.md"}
    assert (folder / "model.onnx").read_bytes() == metric.read_bytes()
    settings = json.loads((folder / "settings.json").read_text())
    assert settings["host"] == "127.0.0.1"
    assert [settings[f"{kind}_port"] for kind in ("http", "grpc", "metrics")] == [9000, 8081, 8082]
    assert settings["model_repository_implementation"] == "pe_runtime.serve_limits.LimitedRepository"
    limits = {"max_body_bytes": 1 << 28, "read_seconds": 60, "queue": 32}
    assert settings["model_repository_implementation_args"] == limits
    model = json.loads((folder / "model-settings.json").read_text())
    assert (model["name"], model["implementation"]) == ("eq1", "pe_runtime.serve.MetricRuntime")
    assert model["inputs"][0] == {"name": "reference", "datatype": "FP32", "shape": [-1, 3, -1, -1]}
    assert model["outputs"] == [
        {"name": "score", "datatype": "FP32", "shape": [-1]},
        {"name": "map", "datatype": "FP32", "shape": [-1, 1, -1, -1]},
    ]
    assert model["parameters"] == {
        "uri": "./model.onnx",
        "version": "1",
        "extra": {"threads": 2, "concurrency": 3, "max_pixels": 10**6, "provider": "cpu"},
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"http_port": 0}, "http_port: expected 1 to 65535, got 0"),
        ({"grpc_port": 8080}, "expected three different ports"),
        ({"concurrency": 0}, "concurrency: expected 1 or more, got 0"),
        ({"max_pixels": 0}, "max_pixels: expected 1 or more, got 0"),
        ({"threads": -1}, "threads: expected 0 or more, got -1"),
        ({"max_body_bytes": 0}, "max_body_bytes: expected 1 or more, got 0"),
        ({"read_seconds": 0}, "read_seconds: expected 1 or more, got 0"),
        ({"queue": 0}, "queue: expected 1 or more, got 0"),
    ],
)
def test_mlserver_options_out_of_range(tmp_path, metric, options, message):
    with pytest.raises(ValueError, match=message):
        export_mlserver(metric, tmp_path / "server", **options)
    assert not (tmp_path / "server").exists()


@pytest.mark.parametrize("export", [export_triton, export_mlserver])
def test_what_is_no_metric_is_refused(tmp_path, export):
    other = write_metric(tmp_path / "other.onnx", meta=False)
    with pytest.raises(ValueError, match="expected a metric written by pe-runtime export"):
        export(other, tmp_path / "folder")
    other.write_bytes(other.read_bytes()[:100])
    with pytest.raises(ValueError, match="expected a valid ONNX file"):
        export(other, tmp_path / "folder")
    with pytest.raises(FileNotFoundError):
        export(tmp_path / "missing.onnx", tmp_path / "folder")
    assert not (tmp_path / "folder").exists()


@pytest.mark.parametrize("export", [export_triton, export_mlserver])
def test_existing_folders_are_replaced_only_when_told_to(tmp_path, metric, export):
    folder = export(metric, tmp_path / "folder")
    before = contents(folder)
    changed = write_metric(metric, threshold=0.25)
    with pytest.raises(FileExistsError, match="--force replaces this one"):
        export(changed, tmp_path / "folder")
    assert contents(folder) == before
    export(changed, tmp_path / "folder", force=True)
    after = contents(folder)
    assert set(after) == set(before)
    assert changed.read_bytes() in after.values()

    (folder / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"found notes\.txt"):
        export(metric, tmp_path / "folder", force=True)
    assert contents(folder) == {**after, "notes.txt": b"mine"}


@pytest.mark.parametrize("export", [export_triton, export_mlserver])
def test_an_empty_folder_is_filled(tmp_path, metric, export):
    name = "metric" if export is export_triton else ""
    (tmp_path / "folder" / name).mkdir(parents=True)
    assert contents(export(metric, tmp_path / "folder"))


def test_a_repository_takes_several_models(tmp_path, metric):
    for name in ("first", "second"):
        export_triton(metric, tmp_path / "models", name=name)
    assert sorted(path.name for path in (tmp_path / "models").iterdir()) == ["first", "second"]


def test_atomic_folder_is_whole_or_as_before(tmp_path):
    target = tmp_path / "deep" / "folder"

    def interrupted():
        with atomic_folder(target) as temporary:
            (temporary / "half").touch()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(target.parent.iterdir()) == []
    for name in ("first", "second"):
        with atomic_folder(target) as temporary:
            (temporary / name).touch()
        assert [path.name for path in target.iterdir()] == [name]
    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert [path.name for path in target.iterdir()] == ["second"]
    assert [path.name for path in target.parent.iterdir()] == ["folder"]
    (plain := tmp_path / "plain").mkdir()
    assert target.stat().st_mode == plain.stat().st_mode


def test_atomic_folder_brings_the_former_back(tmp_path, monkeypatch):
    target = tmp_path / "folder"
    target.mkdir()
    (target / "former").touch()
    rename = Path.replace

    def fail_for_the_new(self, other):
        if (self / "new").exists():
            raise OSError("disk full")
        return rename(self, other)

    monkeypatch.setattr(Path, "replace", fail_for_the_new)

    def write():
        with atomic_folder(target) as temporary:
            (temporary / "new").touch()

    with pytest.raises(OSError, match="disk full"):
        write()
    assert [path.name for path in target.iterdir()] == ["former"]
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_atomic_folder_does_not_replace_a_file(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError), atomic_folder(tmp_path / "file"):
        pass


def invoke(*arguments):
    return CliRunner().invoke(cli, [str(a) for a in arguments], catch_exceptions=False)


def test_export_help_shows_files_and_servers():
    done = invoke("export", "--help")
    assert done.exit_code == 0
    assert "Usage: cli export [OPTIONS] SOURCE..." in done.output
    assert "--opset" in done.output
    assert all(f"  {name} " in done.output for name in ("triton", "mlserver"))
    assert invoke("export", "-h").output == done.output


@pytest.mark.parametrize("name", ["triton", "mlserver"])
def test_help_of_the_server_commands_has_an_example(name):
    done = invoke("export", name, "--help")
    assert f"pe-runtime export {name} metric.onnx" in done.output


def test_words_that_are_no_command_are_sources(tmp_path):
    with pytest.raises(ValueError, match="alexnet-of-nobody"):
        invoke("export", "alexnet-of-nobody", "-o", tmp_path / "m.onnx")
    with pytest.raises(ValueError, match="alexnet-of-nobody"):
        invoke("export", "-o", tmp_path / "m.onnx", "alexnet-of-nobody")
    nothing = invoke("export")
    assert nothing.exit_code == 2
    assert "Missing argument 'SOURCE...'" in nothing.output


def test_server_commands_write_the_folders(tmp_path, metric):
    done = invoke("export", "triton", metric, "-o", tmp_path / "models", "--name", "eq1", "--max-batch", "2")
    assert (done.exit_code, str(tmp_path / "models" / "eq1") in done.output) == (0, True)
    assert "max_batch_size: 2" in (tmp_path / "models" / "eq1" / "config.pbtxt").read_text()
    done = invoke("export", "mlserver", metric, "-o", tmp_path / "server", "--http-port", "9000")
    assert (done.exit_code, f"mlserver start {tmp_path / 'server'}" in done.output) == (0, True)


def test_server_folders_are_written_without_torch(tmp_path, metric):
    for arguments in (("triton", metric, "-o", tmp_path / "m"), ("mlserver", metric, "-o", tmp_path / "s")):
        done = run_python(WITHOUT_TORCH, "export", *arguments)
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", ["triton", "mlserver"])
def test_writers_run_as_scripts(tmp_path, metric, name):
    done = subprocess.run(
        [sys.executable, ROOT / "export" / f"{name}.py", metric, "-o", tmp_path / "folder"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert contents(tmp_path / "folder")


def fixed_batch(path):
    """A metric for one pair at a time."""
    about = {"format": 1, "input": "float32", "map": False, "min_size": 4}
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3, "H", "W"])
        for name in ("reference", "distorted")
    ]
    outputs = [helper.make_tensor_value_info("score", TensorProto.FLOAT, [1])]
    nodes = [
        helper.make_node("Sub", ["reference", "distorted"], ["difference"]),
        helper.make_node("ReduceL2", ["difference", "axes"], ["score"], keepdims=0),
    ]
    axes = numpy_helper.from_array(np.array([1, 2, 3]), "axes")
    return save_model(path, nodes, inputs, outputs, [axes], about)
