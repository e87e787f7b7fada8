"""How long both gates take for one small pair, from the start of the process to its end.

python bench/gate_start.py PE_GATE [--runs 25]      PE_GATE is the built program; gabor is the metric
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path

import numpy as np
import PIL.Image

import pe_runtime as pe


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pe_gate", type=Path)
    parser.add_argument("--runs", type=int, default=25)
    options = parser.parse_args()
    import onnxruntime

    (library,) = (Path(onnxruntime.__file__).parent / "capi").glob("libonnxruntime.so.*")
    os.environ["PE_RUNTIME_ONNXRUNTIME"] = str(library)
    python_gate = [Path(sysconfig.get_path("scripts")) / "pe-runtime", "gate"]
    with tempfile.TemporaryDirectory() as name:
        arguments = write_pair(Path(name))
        for label, command in (("pe_gate", [options.pe_gate]), ("pe-runtime gate", python_gate)):
            for threads in ("1", "0"):
                times = [measure([*command, *arguments, "--threads", threads]) for _ in range(options.runs)]
                print(
                    f"{label:16} threads {threads}: median {statistics.median(times):5.0f} ms, "
                    f"least {min(times):5.0f} ms of {options.runs} runs"
                )


def write_pair(folder: Path) -> list[object]:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 128, 128, 3), dtype=np.uint8)
    paths = [folder / "reference.png", folder / "candidate.png"]
    for path, array in zip(paths, pixels, strict=True):
        PIL.Image.fromarray(array).save(path)
    metric = pe.export(pe.FeatureDistance(pe.Backbone("gabor")), folder / "metric.onnx", verify=False)
    return [*paths, "--metric", metric, "--threshold", "100"]


def measure(command: list[object]) -> float:
    start = time.perf_counter()
    done = subprocess.run([str(part) for part in command], stdout=subprocess.DEVNULL)
    if done.returncode != 0:
        sys.exit(f"{command[0]} ended with status {done.returncode}")
    return (time.perf_counter() - start) * 1000


if __name__ == "__main__":
    main()
