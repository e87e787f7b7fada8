"""Difference maps as pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import PIL.Image
import PIL.PngImagePlugin

from pe_runtime.atomic import atomic_path


def write_map(values: np.ndarray, path: Path, *, width: int, height: int, top: float) -> None:
    """Write a difference map as a PNG in the viridis colours, at the size of the images it is about.

    Args:
        values: (h, w) float32, as the metric gave them; resized bilinearly.
        path: the file to write. Its PNG text says the scale.
        width: of the picture.
        height: of the picture.
        top: the value shown in the last colour, yellow; 0 is shown in the first, dark violet. Values
            beyond are clipped.

    Raises:
        OSError: the file cannot be written.
    """
    from matplotlib import colormaps

    resized = np.asarray(PIL.Image.fromarray(values).resize((width, height), PIL.Image.Resampling.BILINEAR))
    colours = colormaps["viridis"](np.clip(resized / top, 0, 1), bytes=True)[..., :3]
    text = PIL.PngImagePlugin.PngInfo()
    text.add_text("Description", f"difference map, viridis, 0 to {top:g}")
    with atomic_path(path) as temporary:
        PIL.Image.fromarray(np.ascontiguousarray(colours)).save(temporary, "PNG", pnginfo=text)
