"""`pe-runtime export triton` and `pe-runtime export mlserver`: exported metrics as folders for servers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

_METRIC = click.argument("metric", type=click.Path(path_type=Path), metavar="METRIC.onnx")
_NAME = click.option("--name", help="Of the model; that of the file if left out.")
_THREADS = click.option(
    "--threads",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Threads of one run; 0: one per core.",
)
_FORCE = click.option("--force", is_flag=True, help="Replace a folder that this command wrote.")


@click.command(short_help="Metric as a model repository of Triton.")
@_METRIC
@click.option(
    "-o", "--output", "repository", required=True, type=click.Path(path_type=Path), help="Model repository."
)
@_NAME
@click.option(
    "--max-batch",
    type=click.IntRange(min=0),
    default=4,
    show_default=True,
    help="Most pairs in one run; 0: each request runs alone.",
)
@click.option(
    "--delay-us",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Microseconds to wait for more requests of the same image size.",
)
@click.option(
    "--instances", type=click.IntRange(min=1), default=1, show_default=True, help="Runs at the same time."
)
@_THREADS
@click.option("--gpu", is_flag=True, help="Run on the GPU.")
@click.option(
    "--library",
    type=click.Path(path_type=Path),
    help="Operator library of a fused metric; that of this installation if left out.",
)
@click.option(
    "--server-path", default="/models", show_default=True, help="Where the server sees the repository."
)
@_FORCE
def triton(metric: Path, repository: Path, **options: Any) -> None:
    """Write METRIC.onnx as a model of a Triton repository: configuration, model, library and instructions.

    \b
    Example:
      pe-runtime export triton metric.onnx -o models --max-batch 8 --delay-us 500
    """
    from pe_runtime.exporters.triton import export_triton

    folder = export_triton(metric, repository, **options)
    click.echo(f"{folder}: the command that runs it is in {folder / 'README.md'}")


@click.command(short_help="Metric as a folder that MLServer starts.")
@_METRIC
@click.option("-o", "--output", "folder", required=True, type=click.Path(path_type=Path), help="New folder.")
@_NAME
@click.option(
    "--host", default="127.0.0.1", show_default=True, help="Address to listen on; 0.0.0.0: all of them."
)
@click.option("--http-port", type=int, default=8080, show_default=True)
@click.option("--grpc-port", type=int, default=8081, show_default=True)
@click.option("--metrics-port", type=int, default=8082, show_default=True, help="For Prometheus.")
@_THREADS
@click.option(
    "--concurrency", type=click.IntRange(min=1), default=1, show_default=True, help="Runs at the same time."
)
@click.option(
    "--max-pixels",
    type=click.IntRange(min=1),
    default=1 << 24,
    show_default=True,
    help="Most pixels of a request: batch x height x width.",
)
@click.option("--provider", default="cpu", show_default=True, help="Where ONNX Runtime computes: cpu, cuda.")
@click.option(
    "--max-body-bytes",
    type=click.IntRange(min=1),
    default=1 << 28,
    show_default=True,
    help="Most bytes of a request over HTTP.",
)
@click.option(
    "--read-seconds",
    type=click.IntRange(min=1),
    default=60,
    show_default=True,
    help="How long a request over HTTP may take to arrive.",
)
@click.option(
    "--queue",
    type=click.IntRange(min=1),
    default=32,
    show_default=True,
    help="Requests over HTTP that wait or are scored at the same time.",
)
@_FORCE
def mlserver(metric: Path, folder: Path, **options: Any) -> None:
    """Write METRIC.onnx as a folder for MLServer: settings, model and instructions.

    \b
    Example:
      pe-runtime export mlserver metric.onnx -o server --http-port 9000
      mlserver start server
    """
    from pe_runtime.exporters.mlserver import export_mlserver

    export_mlserver(metric, folder, **options)
    click.echo(f"{folder}: mlserver start {folder}")
