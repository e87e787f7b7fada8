"""Damaged images and metrics: an error or a result, in a process of its own that must not crash."""

import sys
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from gate_helpers import png, run_python, tiff, write_metric

FUZZ = """
import faulthandler, io, sys, warnings
import numpy as np
from pathlib import Path
from pe_runtime.gate import Judge, read_image
faulthandler.enable()
warnings.simplefilter("ignore")
kind, count, paths = sys.argv[1], int(sys.argv[2]), [Path(name) for name in sys.argv[3:]]
broken = paths[0].with_name("broken")
rng = np.random.default_rng(7)
pixels = rng.integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)
good = bad = 0
for turn in range(count * len(paths)):
    path = paths[turn // count]
    if turn % count == 0:
        print(path.name, file=sys.stderr)
    changed = bytearray(path.read_bytes())
    for _ in range(rng.integers(1, 5)):
        at = int(rng.integers(len(changed)))
        action = rng.integers(4)
        if action == 0: changed[at] ^= 1 << rng.integers(8)
        elif action == 1: changed[at] = rng.integers(256)
        elif action == 2: del changed[at:at + rng.integers(1, 9)]
        elif rng.random() < 0.3: del changed[max(at, 1):]
        changed = changed or bytearray(1)
    broken.write_bytes(changed)
    try:
        if kind == "image":
            image = read_image(broken)
            assert image.pixels.dtype in (np.uint8, np.uint16) and image.pixels.shape[2] == 3
        else:
            verdict = Judge(broken, 1.0, threads=1, maps=kind == "maps").score(*pixels)
            assert 0 <= verdict.score < np.inf
        good += 1
    except (ValueError, OSError) as error:
        assert str(error)
        bad += 1
print(good, bad)
"""


def fuzz_targets(tmp_path):
    y, x = np.mgrid[0:24, 0:24]
    photo = np.stack([x * 9, y * 9, x * y % 256], axis=2).astype(np.uint8)
    deep = photo.astype(np.uint16) * 257
    for suffix, options in (("jpg", {}), ("webp", {}), ("bmp", {}), ("png", {}), ("tiff", {})):
        PIL.Image.fromarray(photo).save(tmp_path / f"8.{suffix}", **options)
    PIL.Image.fromarray(photo).save(tmp_path / "lzw.tiff", compression="tiff_lzw")
    PIL.Image.fromarray(photo).quantize(16).save(tmp_path / "palette.png")
    (tmp_path / "16.png").write_bytes(png(deep, depth=16, colour=2))
    (tmp_path / "16.tiff").write_bytes(tiff(deep))
    return sorted(tmp_path.glob("*.*"))


def test_damaged_images_are_refused_or_read(tmp_path):
    done = run_python(FUZZ, "image", 150, *fuzz_targets(tmp_path))
    assert done.returncode == 0, done.stderr
    good, bad = map(int, done.stdout.split())
    assert good > 0
    assert bad > 0


@pytest.mark.parametrize(("uint8", "kind"), [(False, "maps"), (True, "score")])
def test_damaged_metrics_are_refused_or_run(tmp_path, uint8, kind):
    path = write_metric(tmp_path / "m.onnx", uint8=uint8)
    done = run_python(FUZZ, kind, 500, path)
    assert done.returncode == 0, done.stderr
    good, bad = map(int, done.stdout.split())
    assert good > 0
    assert bad > 0
