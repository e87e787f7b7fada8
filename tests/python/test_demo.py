"""The demonstration: its distortions, its verdict on the order of strengths, and one run from end to end."""

import csv
import io
import json
import re

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from rich.console import Console

from pe_runtime.cli import cli
from pe_runtime.demo import photographs, verdicts
from pe_runtime.demo.distortions import DISTORTIONS
from pe_runtime.demo.verdicts import Row

skimage_data = pytest.importorskip("skimage.data")


@pytest.fixture(scope="module")
def photo():
    return photographs.load_photographs(None)["coffee"]


def row(*scores, metric="distance", distortion="blur"):
    return Row(metric, "coffee", distortion, DISTORTIONS[distortion][1], 0.5, scores)


@pytest.mark.parametrize("name", DISTORTIONS)
def test_strengths_go_from_mild_to_strong(photo, name):
    distort, strengths = DISTORTIONS[name]
    original = np.asarray(photo, dtype=float)
    results = [distort(photo, strength) for strength in strengths]
    errors = [np.mean((np.asarray(result, dtype=float) - original) ** 2) for result in results]
    assert errors == sorted(errors)
    assert errors[0] > 0
    assert all((result.size, result.mode) == (photo.size, "RGB") for result in results)
    assert np.array_equal(np.asarray(distort(photo, strengths[0])), np.asarray(results[0]))


def test_noise_has_the_strength_it_says():
    grey = Image.new("RGB", (200, 200), (128, 128, 128))
    distorted = np.asarray(DISTORTIONS["noise"][0](grey, 16), dtype=float)
    assert distorted.std() == pytest.approx(16, rel=0.02)


@pytest.mark.parametrize(
    ("scores", "ordered"),
    [((1, 2, 3, 4), True), ((1, 2, 2, 4), False), ((0.5, 1, 2, 3), False), ((1, 3, 2, 4), False)],
)
def test_order_is_strict_and_starts_above_no_distortion(scores, ordered):
    assert row(*scores).ordered is ordered


def test_photographs_of_a_folder(tmp_path):
    Image.new("L", (300, 400), 7).save(tmp_path / "grey.png")
    (tmp_path / "notes.txt").write_text("not a photograph")
    (photo,) = photographs.load_photographs(tmp_path).values()
    assert (photo.size, photo.mode) == ((photographs.SIDE,) * 2, "RGB")


def test_unusable_folders_are_refused(tmp_path):
    with pytest.raises(ValueError, match="images: expected photographs in"):
        photographs.load_photographs(tmp_path)
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(ValueError, match="images: expected a photograph, could not read"):
        photographs.load_photographs(tmp_path)
    Image.new("RGB", (300, 20)).save(tmp_path / "broken.png")
    with pytest.raises(ValueError, match="images: expected at least 256 x 256 pixels, got 300 x 20"):
        photographs.load_photographs(tmp_path)


def test_tables_and_files_hold_every_score(tmp_path):
    rows = [row(1, 2, 3, 4), row(4, 3, 2, 1, distortion="noise")]
    console = Console(file=io.StringIO(), width=120)
    verdicts.print_rows(rows, "distance", console)
    printed = console.file.getvalue()
    assert "yes" in printed
    assert "NO" in printed
    verdicts.write_rows(rows, tmp_path)
    listed = json.loads((tmp_path / "scores.json").read_text())
    assert [entry["ordered"] for entry in listed] == [True, False]
    lines = list(csv.DictReader((tmp_path / "scores.csv").open()))
    assert [float(line["score"]) for line in lines] == [1, 2, 3, 4, 4, 3, 2, 1]
    verdicts.plot_rows(rows, tmp_path / "scores.png")
    assert np.ptp(np.asarray(Image.open(tmp_path / "scores.png").convert("L"))) > 100


@pytest.mark.long
def test_demo_from_end_to_end(tmp_path):
    folder, output = tmp_path / "photos", tmp_path / "out"
    folder.mkdir()
    Image.fromarray(skimage_data.astronaut()).save(folder / "astronaut.png")
    done = CliRunner().invoke(
        cli, ["demo", "--images", str(folder), "-o", str(output)], catch_exceptions=False
    )
    assert done.exit_code == 0, done.output
    assert "16 of 16 rows order the strengths correctly" in done.output
    metrics = {path.name for path in (output / "metrics").iterdir()}
    assert metrics == {"distance.onnx", "distance-h25.onnx", "lpips.onnx", "contextual.onnx"}
    for name in ("scores.png", "scores.csv", "scores.json", "maps/astronaut.png"):
        assert (output / name).stat().st_size > 0
    assert len(list((output / "profiles").glob("*.safetensors"))) == len(
        list((output / "profiles").glob("*-tuning.png"))
    )
    # The gate's own table and exit code are part of what is printed.
    assert "5. The gate: pe-runtime gate" in done.output
    assert re.search(r"exit code [01] ", done.output)
