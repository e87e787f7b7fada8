"""A metric as a folder that MLServer starts from.

As a script, `python export/mlserver.py` is `pe-runtime export mlserver`.
"""

from __future__ import annotations

import sys

if __name__ == "__main__":
    # Python put this folder first on the path, where its files would hide packages of the same names.
    sys.path.pop(0)
    from pe_runtime.cli import main

    main(["export", "mlserver", *sys.argv[1:]])

import json
import os
from pathlib import Path
from typing import Any

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

SETTINGS_FILE = "settings.json"
MODEL_SETTINGS_FILE = "model-settings.json"
#: Largest message over gRPC: two float images of 3200 x 3200. The default, 4 MB, holds none of 512 x 512.
GRPC_BYTES = 1 << 28
#: Largest request over HTTP: two float images of 2000 x 2000 as JSON.
BODY_BYTES = 1 << 28


def export_mlserver(
    metric: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    name: str | None = None,
    host: str = "127.0.0.1",
    http_port: int = 8080,
    grpc_port: int = 8081,
    metrics_port: int = 8082,
    threads: int = 0,
    concurrency: int = 1,
    max_pixels: int = 1 << 24,
    provider: str = "cpu",
    max_body_bytes: int = BODY_BYTES,
    read_seconds: int = 60,
    queue: int = 32,
    force: bool = False,
) -> Path:
    """Write a folder for `mlserver start`: settings, the model and instructions.

    Args:
        metric: an ONNX file written by `pe-runtime export`.
        folder: what is written, whole or not at all.
        name: of the model; None: that of the file without its suffix.
        host: address that the server listens on; 127.0.0.1 is this machine only, 0.0.0.0 everyone.
        http_port: of the V2 protocol over HTTP.
        grpc_port: of the same over gRPC.
        metrics_port: of statistics for Prometheus.
        threads: threads of ONNX Runtime for one request; 0: one per core.
        concurrency: requests scored at the same time; each needs the memory of its images.
        max_pixels: most pixels, batch x height x width, of a request; larger ones are refused.
        provider: where ONNX Runtime computes, "cpu" or "cuda".
        max_body_bytes: most bytes of a request over HTTP; larger ones are answered by status 413.
        read_seconds: how long a request over HTTP may take to arrive before its connection is closed.
        queue: requests over HTTP that wait or are scored at the same time; more are answered by status 503.
        force: replace a folder that this function wrote.

    Returns:
        The folder.

    Raises:
        ValueError: no metric, or an option out of its range.
        FileExistsError: the folder exists, or, with `force`, holds what was not written here.
        OSError: something cannot be read or written.
    """
    served = read_served_metric(metric)
    name = model_name(name, served)
    ports = {"http_port": http_port, "grpc_port": grpc_port, "metrics_port": metrics_port}
    _check_ports(ports)
    for option, value, least in (
        ("threads", threads, 0),
        ("concurrency", concurrency, 1),
        ("max_pixels", max_pixels, 1),
        ("max_body_bytes", max_body_bytes, 1),
        ("read_seconds", read_seconds, 1),
        ("queue", queue, 1),
    ):
        if value < least:
            raise ValueError(f"{option}: expected {least} or more, got {value}")
    settings = {
        "host": host,
        **ports,
        "grpc_max_message_length": GRPC_BYTES,
        # MLServer's default is true, and sends stack traces to clients.
        "debug": False,
        # ONNX Runtime has threads of its own; more processes would only copy the images.
        "parallel_workers": 0,
        # MLServer has no settings for these. It imports this class before it starts.
        "model_repository_implementation": "pe_runtime.serve_limits.LimitedRepository",
        "model_repository_implementation_args": {
            "max_body_bytes": max_body_bytes,
            "read_seconds": read_seconds,
            "queue": queue,
        },
    }
    runtime = {
        "threads": threads,
        "concurrency": concurrency,
        "max_pixels": max_pixels,
        "provider": provider,
    }
    folder = Path(folder)
    files = (SETTINGS_FILE, MODEL_SETTINGS_FILE, MODEL_FILE, README_FILE)
    with server_folder(folder, files, force=force) as temporary:
        _write_json(temporary / SETTINGS_FILE, settings)
        _write_json(temporary / MODEL_SETTINGS_FILE, model_settings(served, name, runtime))
        (temporary / MODEL_FILE).write_bytes(served.data)
        (temporary / README_FILE).write_text(_readme(served, name, http_port), encoding="utf-8")
    return folder


def model_settings(metric: MetricFile, name: str, runtime: dict[str, Any]) -> dict[str, Any]:
    """What MLServer knows of the model; `runtime` are the settings of `pe_runtime.serve.MetricRuntime`."""

    def described(tensors: dict[str, tuple[str, tuple[int | str | None, ...]]]) -> list[dict[str, Any]]:
        return [
            {"name": tensor, "datatype": V2_TYPES[element], "shape": dimensions(shape)}
            for tensor, (element, shape) in tensors.items()
        ]

    return {
        "name": name,
        "implementation": "pe_runtime.serve.MetricRuntime",
        # As Triton calls it.
        "platform": "onnxruntime_onnx",
        "inputs": described(metric.inputs),
        "outputs": described(metric.outputs),
        "parameters": {"uri": f"./{MODEL_FILE}", "version": "1", "extra": runtime},
    }


def _check_ports(ports: dict[str, int]) -> None:
    for option, port in ports.items():
        if not 1 <= port <= 65535:
            raise ValueError(f"{option}: expected 1 to 65535, got {port}")
    if len(set(ports.values())) < len(ports):
        raise ValueError(f"{', '.join(ports)}: expected three different ports, got {list(ports.values())}")


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def _readme(metric: MetricFile, name: str, http_port: int) -> str:
    library = (
        "\nThe file uses fused operators; the kernels are in the installed package. Without them ONNX\n"
        "Runtime uses the standard operators that the file has as well.\n"
        if is_fused(metric)
        else ""
    )
    return f"""# {name}

An image-quality metric for MLServer, written by `pe-runtime export mlserver`.

    pip install 'pe_runtime[cpu,serve]'
    mlserver start FOLDER

FOLDER is the one that holds this file. It is ready when
`curl -f localhost:{http_port}/v2/models/{name}/ready` succeeds; SIGINT or SIGTERM stops it.

{tensor_table(metric)}

{images_note(metric)}
{library}
Address, ports and limits of requests are in `{SETTINGS_FILE}`, threads and the largest image in
`{MODEL_SETTINGS_FILE}`.

A client. MLServer takes tensors as JSON over HTTP, hence `binary_data=False`, and as bytes over gRPC:

{client_example(metric, name, binary=False).replace("PORT", str(http_port))}
"""
