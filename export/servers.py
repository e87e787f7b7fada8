"""What the folders for inference servers have in common: the metric, its name, and how they are written."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from pe_runtime.atomic import atomic_folder
from pe_runtime.gate.metric_file import MetricFile, read_metric
from pe_runtime.ort import DOMAIN

MODEL_FILE = "model.onnx"
README_FILE = "README.md"
#: Element types of the V2 Open Inference protocol.
V2_TYPES = {"float32": "FP32", "uint8": "UINT8", "bool": "BOOL"}


def read_served_metric(path: str | os.PathLike[str]) -> MetricFile:
    """The metric of an ONNX file, checked to be one that a server can run.

    Raises:
        ValueError: not a metric that `pe-runtime export` wrote, or with outputs that have no type in the
            protocol.
        OSError: the file cannot be read.
    """
    metric = read_metric(path)
    metric.check_contract()
    for name, (element, _) in metric.outputs.items():
        if element not in V2_TYPES:
            raise ValueError(f"{metric.path}: {name}: expected one of {', '.join(V2_TYPES)}, got {element}")
    return metric


def is_fused(metric: MetricFile) -> bool:
    """Whether the file uses the project's operators, and so the library that has their kernels."""
    return DOMAIN in metric.opsets


def model_name(name: str | None, metric: MetricFile) -> str:
    """The name that clients ask for: `name`, or that of the file without its suffix.

    Raises:
        ValueError: it would not do as a folder and in a URL.
    """
    name = metric.path.stem if name is None else name
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", name):
        raise ValueError(f"name: expected letters, digits and _ . - (not first), got {name!r}")
    return name


def dimensions(shape: tuple[int | str | None, ...]) -> list[int]:
    """Sizes as servers write them: -1 where any will do."""
    return [size if isinstance(size, int) else -1 for size in shape]


@contextmanager
def server_folder(folder: Path, files: Collection[str], *, force: bool) -> Iterator[Path]:
    """Give an empty folder that takes the place of `folder` once it is whole.

    Args:
        folder: must not exist, or be empty, unless it is replaced.
        files: names of all that will be written into it.
        force: replace a folder that holds nothing but these.

    Raises:
        FileExistsError: a folder that may not be replaced.
        OSError: it cannot be written.
    """
    found = sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []
    if found and not force:
        raise FileExistsError(f"{folder}: expected a new or empty folder; --force replaces this one")
    foreign = [name for name in found if name not in files]
    if foreign:
        raise FileExistsError(f"{folder}: expected a folder of this command to replace, found {foreign[0]}")
    with atomic_folder(folder) as temporary:
        yield temporary


def tensor_table(metric: MetricFile, shapes: dict[str, list[int]] | None = None) -> str:
    """Inputs and outputs as a Markdown table; `shapes` overrides those of the file."""
    rows = ["| tensor | type | shape |", "| --- | --- | --- |"]
    for side, tensors in (("input", metric.inputs), ("output", metric.outputs)):
        for name, (element, shape) in tensors.items():
            sizes = ", ".join(
                "?" if size < 0 else str(size) for size in (shapes or {}).get(name, dimensions(shape))
            )
            rows.append(f"| {side} `{name}` | {V2_TYPES[element]} | ({sizes}) |")
    return "\n".join(rows)


def images_note(metric: MetricFile) -> str:
    """What the images must be, and what the score means."""
    values = "0 to 1" if metric.input_type == "float32" else "0 to 255"
    return (
        f"Images are RGB with values of {values}, at least {metric.min_size} pixels high and wide; the two\n"
        "of a pair have one size. The score is 0 for identical images; larger is worse."
    )


def client_example(metric: MetricFile, name: str, *, binary: bool) -> str:
    """Lines of Python that score one pair of image files; `binary`: tensors as bytes, not as JSON."""
    kind = V2_TYPES[metric.input_type]
    pixels = "np.asarray(Image.open(path).convert('RGB'))[None]"
    if metric.input_type == "float32":
        pixels = f"np.float32({pixels}.transpose(0, 3, 1, 2)) / 255"
    return f"""```python
import numpy as np
import tritonclient.http as client       # pip install 'tritonclient[http]' pillow
from PIL import Image

inputs = []
for name, path in {{"reference": "reference.png", "distorted": "candidate.png"}}.items():
    pixels = {pixels}
    inputs.append(client.InferInput(name, pixels.shape, "{kind}"))
    inputs[-1].set_data_from_numpy(pixels, binary_data={binary})
outputs = [client.InferRequestedOutput("score", binary_data={binary})]
result = client.InferenceServerClient("localhost:PORT").infer("{name}", inputs, outputs=outputs)
print(result.as_numpy("score").ravel())
```"""
