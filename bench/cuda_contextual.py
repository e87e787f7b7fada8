"""How fast the contextual loss is on a GPU, how much memory it takes and how exact it is, beside its peers.

One run measures everything that is compared: the kernels and the peers of contextual_peers.py on the same
fresh features, and the ceilings of the GPU (matrix products, copies, exponentials). Both settings of
matmul_precision: at "highest" everybody multiplies in float32, at "high" the peers in TF32 and the kernels
without split operands. "both" is forward with backward to the source. Errors are relative, of the loss and
of the gradient (norm of the difference), against the definition in float64, taken a block of rows at a time
on the same GPU.

"of the limit" is the time that the work takes on paper at the measured rates, over the time it took: passes
over all pairs (three forward, two more backward) of three products each ("high": one) at the float16 rate,
and one exponential for each pair.

    python bench/cuda_contextual.py --json cuda_contextual.json
"""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import cuda_timing
import torch
from contextual import numbers
from contextual_exact import exact
from contextual_peers import PEERS, H, Loss, Peer, eager_softmax, pair
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from torch import Tensor

from pe_runtime.atomic import atomic_path
from pe_runtime.functional import contextual_loss

NAMES = ("pe_runtime", "eager", "eager, softmax", "torch.compile", "PyTorch port")
PRECISIONS = ("highest", "high")
# Targets are set for the first two; the last is a map of 512 x 512.
POSITIONS = "4096,16384,262144"
# Larger maps are for the kernels alone, and without a float64 reference.
LARGEST_COMPARED = 16384
PASSES = {False: 3, True: 5}
PRODUCTS = {"highest": 3, "high": 1}
# Sets of features that take turns, so that none is in the caches from the run before.
SETS = 3
# channels -> (must, aim) times as fast as a peer, forward and backward together.
TARGETS = {
    128: {"eager": (5.0, 7.0), "torch.compile": (2.5, 4.0)},
    13: {"eager": (15.0, 25.0)},
}
MEMORY_TARGET = 0.05
LOSS_TARGET = 1e-4

Row = dict[str, Any]


def functions(precision: str) -> dict[str, Peer]:
    """The peers, compiled for the shapes they meet, and ours at this precision."""
    own = functools.partial(contextual_loss, bandwidth=H, kernels="native", matmul_precision=precision)
    replaced = {
        "pe_runtime": own,
        # A change of shape would make it compile for all shapes, which is slower.
        "torch.compile": torch.compile(eager_softmax, dynamic=False),
    }
    return {name: PEERS[name]._replace(function=replaced.get(name, PEERS[name].function)) for name in NAMES}


def measure(peer: Peer, inputs: list[tuple[Tensor, Tensor]], backward: bool, runs: int) -> Row:
    """Seconds and peak bytes; nothing where it does not fit; or why it failed."""

    def run(features: tuple[Tensor, Tensor]) -> Tensor:
        if not backward:
            with torch.no_grad():
                return peer.function(*features)
        source = features[0].detach().requires_grad_()
        return torch.autograd.grad(peer.function(source, features[1]), source)[0]

    try:
        run(inputs[0])
        peak = cuda_timing.peak(lambda: run(inputs[0]))
        return {"seconds": cuda_timing.median_time(run, inputs, runs), "peak_bytes": peak}
    except torch.OutOfMemoryError:
        torch.cuda.empty_cache()
        return {}
    except RuntimeError as error:
        # One that fails is reported when the others have been measured.
        return {"failed": str(error).strip() or type(error).__name__}


def errors(function: Loss, features: tuple[Tensor, Tensor], truth: tuple[Tensor, Tensor]) -> Row:
    source = features[0].detach().requires_grad_()
    loss = function(source, features[1])
    (gradient,) = torch.autograd.grad(loss, source)
    off = (gradient.double() - truth[1]).norm() / truth[1].norm()
    return {
        "loss_error": ((loss.double() - truth[0]).abs() / truth[0].abs()).item(),
        "gradient_error": off.item(),
    }


def measure_case(size: int, batch: int, channels: int, names: list[str], runs: int) -> Iterator[Row]:
    """All rows of one shape: every peer, both passes, both precisions."""
    inputs = [pair(size, channels, batch, seed, cuda_timing.DEVICE) for seed in range(SETS)]
    compared = size <= LARGEST_COMPARED
    # The port averages over the batch, and adds its constant inside the logarithm.
    truths = {
        port: exact(*inputs[0], over=(0, 2, 3) if port else (2, 3), eps_log=1e-5 if port else 0.0)
        for port in (False, True)
        if compared
    }
    for precision in PRECISIONS:
        torch._dynamo.reset()
        torch.set_float32_matmul_precision(precision)
        for name, peer in functions(precision).items():
            if name not in names or not (compared or name == "pe_runtime"):
                continue
            for backward in (False, True):
                row = {"N": size, "B": batch, "C": channels, "precision": precision, "backward": backward}
                row |= {"name": name, **measure(peer, inputs, backward, runs)}
                if backward and compared and "seconds" in row:
                    row |= errors(peer.function, inputs[0], truths[name == "PyTorch port"])
                yield row
    torch.set_float32_matmul_precision("highest")


def measure_ceilings() -> dict[str, float]:
    """Rates that nothing on this GPU exceeds, in operations, bytes and exponentials per second."""
    rates = {
        kind: cuda_timing.product_rate(kind) for kind in ("float16", "bfloat16", "tf32", "float32", "float64")
    }
    return {**rates, "copy": cuda_timing.copy_bandwidth(), "exp2": cuda_timing.exponential_rate()}


def limit(row: Row, ceilings: dict[str, float]) -> float:
    """Seconds that the work of a row takes on paper."""
    pairs = row["B"] * row["N"] ** 2
    products = PASSES[row["backward"]] * PRODUCTS[row["precision"]]
    return 2 * products * pairs * row["C"] / ceilings["float16"] + pairs / ceilings["exp2"]


def by_case(rows: list[Row]) -> dict[tuple[Any, ...], dict[str, Row]]:
    cases: dict[tuple[Any, ...], dict[str, Row]] = {}
    for row in rows:
        key = (row["N"], row["B"], row["C"], row["precision"], row["backward"])
        cases.setdefault(key, {})[row["name"]] = row
    return cases


def speed_table(rows: list[Row], names: list[str], ceilings: dict[str, float]) -> Table:
    title = "ms, or times ours (peak MB; of eager's)"
    table = Table("N", "B", "C", "precision", "pass", *names, "of the limit", title=title)
    for (size, batch, channels, precision, backward), case in by_case(rows).items():
        own, whole = case.get("pe_runtime", {}), case.get("eager", {}).get("peak_bytes")
        shown = [_cell(case.get(name), own.get("seconds"), whole) for name in names]
        reached = f"{limit(own, ceilings) / own['seconds']:.0%}" if "seconds" in own else ""
        kind = "both" if backward else "forward"
        table.add_row(str(size), str(batch), str(channels), precision, kind, *shown, reached)
    return table


def _cell(row: Row | None, own: float | None, whole: int | None) -> str:
    if row is None:
        return ""
    if "seconds" not in row:
        return "failed" if "failed" in row else "does not fit"
    alone = row["name"] == "pe_runtime" or own is None
    time = f"{row['seconds'] * 1e3:.3f}" if alone else f"{row['seconds'] / own:.2f}x"
    share = f"; {row['peak_bytes'] / whole:.1%}" if whole else ""
    return f"{time} ({row['peak_bytes'] / 1e6:.0f}{share})"


def error_table(rows: list[Row], names: list[str]) -> Table:
    table = Table("N", "B", "C", "precision", *names, title="relative error of the loss / of the gradient")
    for (size, batch, channels, precision, backward), case in by_case(rows).items():
        if backward and any("loss_error" in row for row in case.values()):
            shown = [
                f"{case[name]['loss_error']:.0e} / {case[name]['gradient_error']:.0e}"
                if "loss_error" in case.get(name, {})
                else ""
                for name in names
            ]
            table.add_row(str(size), str(batch), str(channels), precision, *shown)
    return table


def judge(rows: list[Row]) -> list[Row]:
    """Each target that the rows have figures for: what, must, aim, got, whether it is met."""
    verdicts: list[Row] = []
    for (size, batch, channels, precision, backward), case in by_case(rows).items():
        own = case.get("pe_runtime", {})
        if not backward or "seconds" not in own:
            continue
        where = f"N = {size}, B = {batch}, C = {channels}, {precision}"
        if size > LARGEST_COMPARED:
            verdicts.append(_verdict(f"{where}: runs", "", "", f"{own['seconds'] * 1e3:.0f} ms", True, True))
            continue
        for peer, (must, aim) in TARGETS.get(channels, {}).items():
            if "seconds" in case.get(peer, {}):
                ratio = case[peer]["seconds"] / own["seconds"]
                shown = (f"{must:g}x", f"{aim:g}x", f"{ratio:.2f}x")
                verdicts.append(
                    _verdict(f"{where}: times as fast as {peer}", *shown, ratio >= must, ratio >= aim)
                )
        if "peak_bytes" in case.get("eager", {}):
            share = own["peak_bytes"] / case["eager"]["peak_bytes"]
            small = share < MEMORY_TARGET
            shown = (f"{MEMORY_TARGET:.0%}", "", f"{share:.2%}")
            verdicts.append(_verdict(f"{where}: peak memory of eager's", *shown, small, small))
        if precision == "highest" and "loss_error" in own:
            close = own["loss_error"] <= LOSS_TARGET
            shown = (f"{LOSS_TARGET:.0e}", "", f"{own['loss_error']:.0e}")
            verdicts.append(_verdict(f"{where}: error of the loss", *shown, close, close))
    return verdicts


def _verdict(what: str, must: str, aim: str, got: str, met: bool, aim_met: bool) -> Row:
    verdict = ("met, and the aim" if aim and aim_met else "met") if met else "MISSED"
    return {"what": what, "must": must, "aim": aim, "got": got, "verdict": verdict}


@click.command(epilog="Example: python bench/cuda_contextual.py --channels 13,32,64,128,512")
@click.option("--channels", default="13,128", callback=numbers, show_default=True)
@click.option(
    "--positions",
    default=POSITIONS,
    callback=numbers,
    show_default=True,
    help=f"N, squares; above {LARGEST_COMPARED} ours alone. B is 16 up to N = 4096, else 1.",
)
@click.option("--only", multiple=True, type=click.Choice(NAMES), help="Measure these alone.")
@click.option("--runs", default=50, show_default=True, help="Of which the median is taken.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Also write the figures here.")
def main(
    channels: list[int], positions: list[int], only: tuple[str, ...], runs: int, json_path: Path | None
) -> None:
    """Time, memory and error of the contextual loss and its peers on a GPU. Without one: exit status 2."""
    cuda_timing.require_gpu()
    names = [name for name in NAMES if not only or name in only]
    # As wide as it needs, also where the output is a pipe.
    console = Console(width=180)
    console.print(cuda_timing.gpu_name())
    ceilings = measure_ceilings()
    console.print(
        "ceilings: "
        + ", ".join(f"{kind} {ceilings[kind] / 1e12:.0f} TFLOP/s" for kind in list(ceilings)[:5])
        + f", copy {ceilings['copy'] / 1e12:.2f} TB/s, {ceilings['exp2'] / 1e12:.2f}e12 exp2/s"
    )
    figures: dict[str, Any] = {"gpu": cuda_timing.gpu_name(), "ceilings": ceilings, "rows": []}
    rows: list[Row] = figures["rows"]
    cases = [(size, 16 if size <= 4096 else 1, count) for size in positions for count in channels]
    with Progress(console=Console(stderr=True), transient=True) as progress:
        for case in progress.track(cases, description="measuring"):
            rows += measure_case(*case, names, runs)
            torch.cuda.empty_cache()
            # After each: a run that is ended early leaves what it has.
            figures["targets"] = judge(rows)
            if json_path is not None:
                with atomic_path(json_path) as temporary:
                    Path(temporary).write_text(json.dumps(figures, indent=1))
    console.print(speed_table(rows, names, ceilings))
    console.print(error_table(rows, names))
    console.print("References in float64 by blocks of rows on the GPU, up to N =", LARGEST_COMPARED)
    table = Table("target", "must", "aim", "got", "verdict", title="targets")
    for verdict in figures["targets"]:
        table.add_row(*verdict.values())
    console.print(table)
    failed = {f"{row['name']}: {row['failed'].splitlines()[0]}" for row in rows if "failed" in row}
    for line in sorted(failed):
        print(f"failed: {line}", file=sys.stderr)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
