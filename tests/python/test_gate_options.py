"""Options that decide what may pass: --ignore, --strict, and the spellings of numbers."""

import json
import sys
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))
from gate_corpus import PHOTO, icc, profile
from gate_helpers import chunk, png, write_metric

from pe_runtime.cli.gate import _number


@pytest.fixture(scope="module")
def metric(tmp_path_factory):
    return write_metric(tmp_path_factory.mktemp("metric") / "metric.onnx", threshold=0.1)


@pytest.fixture
def folders(tmp_path):
    for side in ("old", "new"):
        (tmp_path / side).mkdir()
        (tmp_path / side / "a.png").write_bytes(png(PHOTO, depth=8, colour=2))
    return tmp_path / "old", tmp_path / "new"


@pytest.fixture
def gate(run_command, folders, metric):
    """Exit code, report, table and errors of the gate on both folders."""

    def call(*options):
        code, out, err = run_command("gate", *folders, "--metric", metric, "--json", "-", *options)
        report = json.loads(out)
        assert report["exit_code"] == code
        return code, report, err

    return call


@pytest.mark.parametrize("suffix", ["avif", "heic", "GIF", "jxl", "exr", "psd", "svg"])
def test_images_that_cannot_be_judged_do_not_pass(gate, folders, suffix):
    for folder in folders:
        (folder / f"b.{suffix}").write_bytes(b"whatever it holds")
    code, report, _ = gate()
    assert code == 2
    assert report["counts"] == {"pairs": 2, "passed": 1, "failed": 0, "errors": 1}
    assert "expected a PNG, JPEG, WebP, BMP or TIFF image" in report["results"][1]["error"]
    code, report, err = gate("--ignore", f"*.{suffix}")
    assert code == 0
    assert report["settings"]["ignore"] == [f"*.{suffix}"]
    assert report["skipped"] == [f"{folder / 'b.'}{suffix} (ignored)" for folder in folders]
    assert "(ignored)" in err


def test_an_image_by_its_content_does_not_pass(gate, folders):
    for folder in folders:
        PIL.Image.fromarray(PHOTO).save(folder / "frame", "GIF")
    assert gate()[0] == 2
    assert gate("--ignore", "frame")[0] == 0


def test_strict_makes_warnings_errors(gate, folders):
    (folders[1] / "a.png").write_bytes(
        png(PHOTO, depth=8, colour=2, chunks=chunk(b"eXIf", b"x") + icc(profile()))
    )
    code, report, _ = gate()
    assert code == 0
    warnings = report["results"][0]["warnings"]
    assert len(warnings) == 2
    code, report, err = gate("--strict")
    assert code == 2
    assert report["settings"]["strict"] is True
    assert report["error"] is None
    (result,) = report["results"]
    assert result["error"] == f"--strict: {warnings[0]}; {warnings[1]}"
    assert result["warnings"] == warnings
    assert (result["verdict"], result["score"], result["width"]) == ("error", None, None)
    assert f"--strict: {warnings[0]}; {warnings[1]}" in err


def test_strict_draws_no_map_of_an_error(gate, folders, tmp_path):
    (folders[1] / "a.png").write_bytes(png(PHOTO, depth=8, colour=2, chunks=chunk(b"eXIf", b"x")))
    _, report, _ = gate("--strict", "--maps", tmp_path / "maps")
    assert report["results"][0]["map"] is None
    assert not (tmp_path / "maps").exists()


def test_strict_refuses_what_was_skipped_unasked(gate, folders):
    (folders[0] / ".hidden").write_bytes(b"")
    (folders[1] / "extra.png").write_bytes(b"")
    (folders[1] / "old.gif").write_bytes(b"")
    options = ("--allow-extra", "--ignore", "*.gif")
    code, report, _ = gate(*options, "--strict")
    assert (code, report["error"]) == (0, None)
    (folders[0] / "notes.txt").write_bytes(b"")
    (folders[1] / "Thumbs.db").write_bytes(b"")
    assert gate(*options)[0] == 0
    code, report, err = gate(*options, "--strict")
    assert code == 2
    assert report["verdict"] == "error"
    assert report["error"] == "--strict: 2 files skipped"
    assert "Error: --strict: 2 files skipped" in err
    # What was judged is told as always.
    assert report["counts"] == {"pairs": 1, "passed": 1, "failed": 0, "errors": 0}
    assert "a.png" in err
    assert gate(*options, "--ignore", "*.txt", "--ignore", "Thumbs.db", "--strict")[0] == 0


GOOD = ["0", "+0.5", "1", "1.", ".5", "1e3", "1E-3", "+1.5e+2", "007", "0.1", "1e-400"]
BAD = ["", " 1", "1 ", "1_0", "0x1", "0x1p3", "inf", "nan", "infinity", "-1", "-0", "--1", "+", ".", "e5",
       "1e", "1e+", "1e999", "1,5", "1.2.3", "\u0661", "1\n", "1f", "NaN", "1d5"]  # fmt: skip


@pytest.mark.parametrize("text", GOOD)
def test_numbers(gate, text):
    code, report, _ = gate(f"--threshold={text}", f"--map-max={max(float(text), 1)}")
    assert code == 0
    assert report["threshold"] == float(text)
    assert report["settings"]["map_max"] == max(float(text), 1)


@pytest.mark.parametrize("text", BAD)
def test_what_are_no_numbers(gate, text):
    code, report, _ = gate(f"--threshold={text}")
    assert code == 2
    assert report["error"] == f"threshold: expected a finite number >= 0, got {text}"
    code, report, _ = gate(f"--map-max={text}")
    assert code == 2
    assert report["error"] == f"map-max: expected a number of at least 1e-30, got {text}"
    assert report["settings"]["map_max"] is None
    assert report["results"] == []


@pytest.mark.parametrize("text", ["0", "1e-45", "1e-50", "9.9e-31"])
def test_a_top_that_vanishes(gate, text, tmp_path):
    # Values divided by it would be NaN or infinite.
    code, report, _ = gate("--map-max", text, "--maps", tmp_path / "maps")
    assert code == 2
    assert report["error"] == f"map-max: expected a number of at least 1e-30, got {text}"
    assert gate("--map-max", "1e-30", "--maps", tmp_path / "maps")[0] == 0


def test_no_top_without_a_threshold_above_zero(gate, tmp_path):
    code, report, _ = gate("--threshold", "0", "--maps", tmp_path / "maps")
    assert code == 2
    assert report["error"] == "map-max: expected a number of at least 1e-30, got 0"


@settings(max_examples=500)
@given(text=st.text(alphabet="0123456789+-.eE_ xinfa\u0661", max_size=8))
def test_any_text(text):
    try:
        value = _number(text, "expected")
    except ValueError:
        return
    assert value == float(text)
    assert np.isfinite(value)
    assert set(text) <= set("0123456789+-.eE")


def test_settings_of_the_report(gate):
    settings = gate()[1]["settings"]
    assert settings == settings | {"ignore": [], "strict": False, "colour": "srgb", "map_max": None}
