"""A metric as a model repository of Triton Inference Server.

As a script, `python export/triton.py` is `pe-runtime export triton`.
"""

from __future__ import annotations

import sys

if __name__ == "__main__":
    # Python put this folder first on the path, where its files would hide packages of the same names.
    sys.path.pop(0)
    from pe_runtime.cli import main

    main(["export", "triton", *sys.argv[1:]])

import json
import os
import shutil
from pathlib import Path

from pe_runtime.exporters.servers import (
    MODEL_FILE,
    README_FILE,
    V2_TYPES,
    client_example,
    dimensions,
    images_note,
    is_fused,
    model_name,
    read_served_metric,
    server_folder,
    tensor_table,
)
from pe_runtime.gate.metric_file import MetricFile
from pe_runtime.ort import ort_library_path

CONFIG_FILE = "config.pbtxt"
LIBRARY_FILE = "libpe_runtime_ort.so"
VERSION_FOLDER = "1"
#: The release that the run command names; its ONNX Runtime is 1.24.
IMAGE = "nvcr.io/nvidia/tritonserver:26.06-py3"


def export_triton(
    metric: str | os.PathLike[str],
    repository: str | os.PathLike[str],
    *,
    name: str | None = None,
    max_batch: int = 4,
    delay_us: int = 0,
    instances: int = 1,
    threads: int = 0,
    gpu: bool = False,
    library: str | os.PathLike[str] | None = None,
    server_path: str = "/models",
    force: bool = False,
) -> Path:
    """Write a folder of a model repository: configuration, model, operator library and instructions.

    Args:
        metric: an ONNX file written by `pe-runtime export`.
        repository: folder of models; made if it is not there. The model's own folder in it has its name.
        name: of the model; None: that of the file without its suffix.
        max_batch: most pairs in one run, of one request or of several with images of one size that came
            together. 0: every request runs alone, with as many pairs as it has.
        delay_us: microseconds that a request may wait for others to come.
        instances: runs at the same time.
        threads: threads of each; 0: one per core.
        gpu: run on the GPU, without TF32, which would tie the score to the device.
        library: file with the project's operators for ONNX Runtime; None: the one of this installation.
            It is used, and needed, if the metric is fused.
        server_path: where the server sees the repository. Triton opens operator libraries by absolute paths.
        force: replace a folder that this function wrote.

    Returns:
        The model's folder, written whole or not at all.

    Raises:
        ValueError: no metric, or an option out of its range.
        FileExistsError: the folder exists, or, with `force`, holds what was not written here.
        RuntimeError: a fused metric, and no operator library.
        OSError: something cannot be read or written.
    """
    served = read_served_metric(metric)
    name = model_name(name, served)
    operators = _library(library) if is_fused(served) else None
    server_library = _server_library(server_path, name) if operators else None
    config = model_config(
        served,
        name,
        max_batch=max_batch,
        delay_us=delay_us,
        instances=instances,
        threads=threads,
        gpu=gpu,
        server_library=server_library,
    )
    _validate(config)
    folder = Path(repository) / name
    files = (CONFIG_FILE, README_FILE, LIBRARY_FILE, VERSION_FOLDER)
    with server_folder(folder, files, force=force) as temporary:
        (temporary / CONFIG_FILE).write_text(config, encoding="utf-8")
        readme = _readme(served, name, max_batch, gpu, operators is not None, server_path)
        (temporary / README_FILE).write_text(readme, encoding="utf-8")
        (temporary / VERSION_FOLDER).mkdir()
        (temporary / VERSION_FOLDER / MODEL_FILE).write_bytes(served.data)
        if operators:
            shutil.copyfile(operators, temporary / LIBRARY_FILE)
    return folder


def model_config(
    metric: MetricFile,
    name: str,
    *,
    max_batch: int = 4,
    delay_us: int = 0,
    instances: int = 1,
    threads: int = 0,
    gpu: bool = False,
    server_library: str | None = None,
) -> str:
    """The text of config.pbtxt; arguments as `export_triton` has them.

    Args:
        metric: what is served.
        name: of the model.
        server_library: path of the operator library on the server; None: standard operators only.

    Raises:
        ValueError: an option out of its range, or a batch of a metric whose batch size is fixed.
    """
    for option, value, least in (
        ("max_batch", max_batch, 0),
        ("delay_us", delay_us, 0),
        ("instances", instances, 1),
        ("threads", threads, 0),
    ):
        if value < least:
            raise ValueError(f"{option}: expected {least} or more, got {value}")
    if server_library is not None and not (server_library.startswith("/") and server_library.isprintable()):
        raise ValueError(f"server_path: expected an absolute path, got {server_library!r}")
    if max_batch and any(isinstance(shape[0], int) for _, shape in metric.inputs.values()):
        raise ValueError("max_batch: expected 0, because the batch size of this metric is fixed")
    lines = [
        f"name: {_quoted(name)}",
        'backend: "onnxruntime"',
        f"default_model_filename: {_quoted(MODEL_FILE)}",
        f"max_batch_size: {max_batch}",
        *_tensors("input", metric.inputs, max_batch > 0),
        *_tensors("output", metric.outputs, max_batch > 0),
        f"instance_group [ {{ count: {instances} kind: {'KIND_GPU' if gpu else 'KIND_CPU'} }} ]",
        # A plan of the memory is kept for each image size, and sizes vary.
        _parameter("enable_mem_pattern", "0"),
    ]
    if max_batch > 1:
        # Without allow_ragged_batch, requests are put together only where their images have one size.
        lines.append(f"dynamic_batching {{ max_queue_delay_microseconds: {delay_us} }}")
    if threads:
        lines.append(_parameter("intra_op_thread_count", str(threads)))
    if gpu:
        no_tf32 = 'parameters { key: "use_tf32" value: "0" }'
        accelerator = f'gpu_execution_accelerator [ {{ name: "cuda" {no_tf32} }} ]'
        lines.append(f"optimization {{ execution_accelerators {{ {accelerator} }} }}")
    if server_library is not None:
        lines.append(f"model_operations {{ op_library_filename: [ {_quoted(server_library)} ] }}")
    return "\n".join(lines) + "\n"


def _tensors(
    side: str, tensors: dict[str, tuple[str, tuple[int | str | None, ...]]], batched: bool
) -> list[str]:
    rows = []
    for name, (element, shape) in tensors.items():
        sizes, reshape = dimensions(shape)[batched:], ""
        if not sizes:
            # Triton has no tensors without sizes beside the batch: clients see (B, 1), the model (B,).
            sizes, reshape = [1], " reshape { shape: [ ] }"
        listed = ", ".join(str(size) for size in sizes)
        kind = f"TYPE_{V2_TYPES[element]}"
        rows.append(f"  {{ name: {_quoted(name)} data_type: {kind} dims: [ {listed} ]{reshape} }}")
    return [f"{side} [", ",\n".join(rows), "]"]


def _parameter(key: str, value: str) -> str:
    return f"parameters {{ key: {_quoted(key)} value {{ string_value: {_quoted(value)} }} }}"


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _library(path: str | os.PathLike[str] | None) -> Path:
    return ort_library_path() if path is None else Path(path)


def _server_library(server_path: str, name: str) -> str:
    return f"{server_path.rstrip('/')}/{name}/{LIBRARY_FILE}"


def _validate(config: str) -> None:
    """Parse a configuration by the server's own schema, where that can be loaded."""
    try:
        from google.protobuf import text_format
        from tritonclient.grpc import model_config_pb2
    # RuntimeError: tritonclient without its gRPC extra. TypeError: mlserver is loaded, and the messages of
    # the two have the same names.
    except (ImportError, RuntimeError, TypeError):
        return
    try:
        text_format.Parse(config, model_config_pb2.ModelConfig())
    except text_format.ParseError as error:
        raise RuntimeError(f"{CONFIG_FILE}: expected to fit Triton's schema, but: {error}") from error


def _readme(metric: MetricFile, name: str, max_batch: int, gpu: bool, fused: bool, server_path: str) -> str:
    # What a client sends and gets: with batching, outputs of one number per pair have a second size.
    shapes = {
        output: [-1, 1] for output, (_, shape) in metric.outputs.items() if max_batch > 0 and len(shape) == 1
    }
    together = (
        f"Requests that wait at the same time, with images of one size, run together, up to {max_batch}\n"
        "pairs; the score of a pair does not depend on it. A request may have as many pairs itself."
        if max_batch > 1
        else "Each request runs by itself."
    )
    library = (
        f"""
The file uses fused operators. `{LIBRARY_FILE}` has their kernels, and `{CONFIG_FILE}` names it by its
path on the server, `{_server_library(server_path, name)}`: keep the repository mounted there, or
change the path.
"""
        if fused
        else ""
    )
    gpu_option = "--gpus all " if gpu else ""
    return f"""# {name}

An image-quality metric for Triton Inference Server, written by `pe-runtime export triton`.

From the repository, the folder that holds this folder:

    docker run --rm {gpu_option}-p 8000:8000 -p 8001:8001 -p 8002:8002 -v "$PWD":{server_path}:ro \\
        {IMAGE} tritonserver --model-repository={server_path}

Without a container: `tritonserver --model-repository={server_path}`. It is ready when
`curl -f localhost:8000/v2/models/{name}/ready` succeeds.

{tensor_table(metric, shapes)}

{images_note(metric)}

{together}
{library}
A client (port 8000 is HTTP, 8001 gRPC, 8002 statistics):

{client_example(metric, name, binary=True).replace("PORT", "8000")}
"""
