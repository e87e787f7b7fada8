"""The contextual loss in ONNX Runtime: the fused operator beside graphs of standard operators.

On features, without a backbone. "naive" is the definition as one writes it in PyTorch and exports it, with
matrices of all pairs; "blocks" is the function that `pe_runtime` writes for where its library is not;
"fused" is the operator of the library; "torch" is the same kernel as an operator of PyTorch. What does not
fit in --memory is left out.

    python bench/onnx_contextual.py --positions 4096,16384 --channels 13,128
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import onnx
import torch
from contextual import numbers
from contextual_peers import eager
from rich.console import Console
from rich.table import Table
from timing import measure
from torch import Tensor, nn

import pe_runtime as pe
from pe_runtime.atomic import atomic_path
from pe_runtime.exporters.onnx_functions import add_functions
from pe_runtime.functional import contextual_loss
from pe_runtime.reference import ContextualSettings

NAMES = ("source", "target")


class Definition(nn.Module):
    """The contextual loss with matrices of all pairs."""

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        """The loss of the batch, ()."""
        return eager(source, target)


def naive_model(channels: int) -> bytes:
    free = dict.fromkeys((0, 2, 3), torch.export.Dim.DYNAMIC)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            Definition().eval(),
            (torch.rand(2, channels, 8, 9), torch.rand(2, channels, 7, 6)),
            dynamo=True,
            verbose=False,
            input_names=list(NAMES),
            output_names=["loss"],
            dynamic_shapes=(free, free),
            opset_version=18,
        )
    assert program is not None
    return bytes(program.model_proto.SerializeToString())


def operator_model() -> bytes:
    """One fused operator, and the function that stands in for it."""
    value, kind = onnx.helper.make_tensor_value_info, onnx.TensorProto.FLOAT
    inputs = [value(name, kind, [None] * 4) for name in NAMES]
    node = onnx.helper.make_node("ContextualLoss", NAMES, ["loss", ""], domain="pe_runtime")
    graph = onnx.helper.make_graph([node], "contextual", inputs, [value("loss", kind, [None])])
    opsets = [onnx.helper.make_opsetid("", 18), onnx.helper.make_opsetid("pe_runtime", 1)]
    model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10)
    add_functions(model, ContextualSettings(), 64, 18)
    return bytes(model.SerializeToString())


def in_onnx_runtime(
    model: bytes, fused: bool, threads: int, pair: tuple[Tensor, Tensor]
) -> Callable[[], Any]:
    session = pe.open_session(model, threads=threads, fused=fused)
    feed = {name: features.numpy() for name, features in zip(NAMES, pair, strict=True)}
    return lambda: session.run(["loss"], feed)


def cases(channels: int, threads: int, pair: tuple[Tensor, Tensor]) -> dict[str, Callable[[], Any]]:
    return {
        "fused": in_onnx_runtime(operator_model(), True, threads, pair),
        "torch": lambda: contextual_loss(*pair, kernels="native"),
        "blocks": in_onnx_runtime(operator_model(), False, threads, pair),
        "naive": in_onnx_runtime(naive_model(channels), False, threads, pair),
    }


@click.command(epilog="Example: python bench/onnx_contextual.py --positions 4096 --channels 13")
@click.option("--positions", default="4096,16384", callback=numbers, show_default=True, help="N, squares.")
@click.option("--channels", default="13,128", callback=numbers, show_default=True)
@click.option("--threads", default=2, show_default=True)
@click.option("--runs", default=9, show_default=True, help="Of which the median is taken.")
@click.option("--memory", default=10.0, show_default=True, help="GB that a graph may need.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Also write the figures here.")
def main(
    positions: list[int], channels: list[int], threads: int, runs: int, memory: float, json_path: Path | None
) -> None:
    """Time and peak memory of the contextual loss in ONNX Runtime."""
    torch.set_num_threads(threads)
    table = Table("N", "C", "", "ms", "times fused", "peak MB", title=f"{threads} threads")
    rows: list[dict[str, Any]] = []
    for n in positions:
        for c in channels:
            generator = torch.Generator().manual_seed(0)
            shape = (1, c, math.isqrt(n), math.isqrt(n))
            source = torch.rand(shape, generator=generator).sub_(0.5).relu_()
            target = (source + 0.15 * torch.randn(shape, generator=generator)).relu_()
            table.add_section()
            own = 0.0
            for name, run in cases(c, threads, (source, target)).items():
                # Four matrices of all pairs live at once.
                if name == "naive" and 16 * n * n > memory * 1e9:
                    table.add_row(str(n), str(c), name, "does not fit")
                    continue
                seconds, peak = measure(run, runs, cold=True)
                own = own or seconds
                rows.append({"N": n, "C": c, "name": name, "seconds": seconds, "peak_bytes": peak})
                shown = f"{seconds * 1e3:.2f}", f"{seconds / own:.2f}", f"{peak / 1e6:.0f}"
                table.add_row(str(n), str(c), name, *shown)
    Console(width=100).print(table)
    if json_path is not None:
        with atomic_path(json_path) as temporary:
            Path(temporary).write_text(json.dumps({"threads": threads, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
