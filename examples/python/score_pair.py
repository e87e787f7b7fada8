"""Scores two image files with an exported metric and ONNX Runtime: pe_runtime and torch are not needed.

    pip install onnxruntime pillow
    python score_pair.py metric.onnx reference.png candidate.png
    python score_pair.py fused.onnx reference.png candidate.png --library libpe_runtime_ort.so

Prints the score and the verdict, and exits with 0 (passed, or no threshold), 1 (failed) or 2 (not compared).
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from PIL import Image


def open_metric(path: Path, library: Path | None) -> tuple[onnxruntime.InferenceSession, dict[str, Any]]:
    """A session, and what the file says of itself."""
    options = onnxruntime.SessionOptions()
    if library:
        options.register_custom_ops_library(str(library))
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return session, json.loads(session.get_modelmeta().custom_metadata_map["pe_runtime"])


def read_image(path: Path, kind: str) -> np.ndarray:
    """An image as the metric takes it: uint8 (1, H, W, 3), or float32 (1, 3, H, W) in [0, 1]."""
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB"))[None]
    return pixels if kind == "uint8" else np.float32(pixels.transpose(0, 3, 1, 2)) / 255


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Score two images with an exported metric.")
    parser.add_argument("metric", type=Path)
    parser.add_argument("reference", type=Path)
    parser.add_argument("distorted", type=Path)
    parser.add_argument("--library", type=Path, help="the operators of a fused metric")
    parser.add_argument("--threshold", type=float, help="largest score that passes, if not the file's own")
    arguments = parser.parse_args()

    try:
        session, about = open_metric(arguments.metric, arguments.library)
    except KeyError:
        parser.error(f"{arguments.metric}: expected a metric written by pe-runtime export")
    if about.get("fused") and not arguments.library:
        print("note: without --library, a fused metric runs on standard operators", file=sys.stderr)
    images = {
        name: read_image(getattr(arguments, name), about["input"]) for name in ("reference", "distorted")
    }
    sizes = {name: pixels.shape for name, pixels in images.items()}
    if sizes["reference"] != sizes["distorted"]:
        parser.error(f"reference and distorted: expected images of one size, got {sizes}")

    (scores,) = session.run(["score"], images)
    score = float(scores[0])
    threshold = about["threshold"] if arguments.threshold is None else arguments.threshold
    if threshold is None:
        print(f"score {score:.6g}")
        return 0
    # Written so that NaN, for which every comparison is false, fails.
    passed = score <= threshold
    print(f"score {score:.6g}  threshold {threshold:g}  {'pass' if passed else 'fail'}")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
