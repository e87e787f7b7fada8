import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from safetensors.numpy import save_file

sys.path.insert(0, str(Path(__file__).parent))
from gate_helpers import WITHOUT_TORCH, metadata, png, run_python, write_metric

from pe_runtime import __version__
from pe_runtime.cli import main


@pytest.fixture(scope="module")
def metric(tmp_path_factory):
    return write_metric(tmp_path_factory.mktemp("metric") / "metric.onnx")


@pytest.fixture
def folders(tmp_path):
    """Directories with pairs of scores 0, (25 / 255)² and 0.04."""
    a, b = tmp_path / "a", tmp_path / "b"
    for folder in (a, b):
        (folder / "sub").mkdir(parents=True)
    for name, value in (("same.png", 0), ("sub/near.png", 25), ("far.png", 51)):
        write_grey(a / name, 51)
        write_grey(b / name, 51 + value)
    return a, b


def write_grey(path, value):
    pixels = np.full((8, 10), value * 257, np.uint16)
    path.write_bytes(png(pixels, depth=16, colour=0))


def lines_of(table):
    """Pair to the words of its line, in the table's order."""
    return {words[0]: words[1:] for words in map(str.split, table.splitlines()) if ".png" in " ".join(words)}


@pytest.mark.parametrize(("threshold", "code", "verdict"), [(0.05, 0, "PASS"), (0.02, 1, "FAIL")])
def test_verdict(run_command, folders, metric, threshold, code, verdict):
    got, out, err = run_command("gate", *folders, "--metric", metric, "--threshold", threshold)
    assert got == code
    assert err == ""
    rows = lines_of(out)
    assert list(rows) == ["far.png", "sub/near.png", "same.png"]
    assert [float(row[0]) for row in rows.values()] == pytest.approx([0.04, (25 / 255) ** 2, 0], rel=1e-5)
    assert [row[2] for row in rows.values()] == ["fail" if code else "pass", "pass", "pass"]
    assert out.rstrip().endswith(
        f"{verdict}: 3 pairs, {3 - code} passed, {code} failed, 0 could not be judged"
    )


def test_sort_by_name_and_quiet(run_command, folders, metric):
    common = ("gate", *folders, "--metric", metric, "--threshold", 0.02)
    _, out, _ = run_command(*common, "--sort", "name")
    assert list(lines_of(out)) == ["far.png", "same.png", "sub/near.png"]
    code, out, _ = run_command(*common, "--quiet")
    assert code == 1
    assert list(lines_of(out)) == ["far.png"]


def test_two_files(run_command, folders, metric):
    a, b = folders
    common = ("--metric", metric, "--threshold", 0.02)
    assert run_command("gate", a / "sub/near.png", b / "sub/near.png", *common)[0] == 0
    assert run_command("gate", a / "far.png", b / "far.png", *common)[0] == 1
    assert run_command("gate", a / "far.png", b, *common)[0] == 2
    assert run_command("gate", a / "far.png", b / "gone.png", *common)[0] == 2


def test_json(run_command, folders, metric, tmp_path):
    a, b = folders
    (b / "notes.txt").write_text("x")
    code, out, err = run_command("gate", a, b, "--metric", metric, "--threshold", 0.02, "--json", "-")
    report = json.loads(out)
    assert code == report["exit_code"] == 1
    assert "far.png" in err
    assert "Skipped 1 files" in err
    assert report["format"] == 1
    assert report["pe_runtime"] == __version__
    assert report["verdict"] == "fail"
    assert report["error"] is None
    assert report["threshold"] == 0.02
    assert report["metric"]["path"] == str(metric)
    assert report["metric"]["metadata"] == metadata()
    assert report["settings"]["background"] == "#808080"
    assert report["counts"] == {"pairs": 3, "passed": 2, "failed": 1, "errors": 0}
    assert report["skipped"] == [f"{b / 'notes.txt'} (not an image by its suffix)"]
    assert report["results"][0] == {
        "name": "far.png",
        "score": pytest.approx(0.04, rel=1e-5),
        "reference": str(a / "far.png"),
        "candidate": str(b / "far.png"),
        "verdict": "fail",
        "width": 10,
        "height": 8,
        "error": None,
        "warnings": [],
        "map": None,
    }
    path = tmp_path / "new" / "report.json"
    run_command("gate", a, b, "--metric", metric, "--threshold", 0.02, "--json", path)
    assert json.loads(path.read_text()) == report


def test_csv(run_command, folders, metric, tmp_path):
    (folders[1] / "same.png").write_bytes(b"broken")
    path = tmp_path / "scores.csv"
    code, out, _ = run_command("gate", *folders, "--metric", metric, "--threshold", 0.02, "--csv", path)
    assert code == 2
    assert "same.png" in out
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["name"], row["verdict"]) for row in rows] == [
        ("far.png", "fail"),
        ("same.png", "error"),
        ("sub/near.png", "pass"),
    ]
    assert float(rows[0]["score"]) == pytest.approx(0.04, rel=1e-5)
    assert rows[1]["score"] == ""
    assert "expected a PNG" in rows[1]["error"]
    _, out, _ = run_command("gate", *folders, "--metric", metric, "--threshold", 0.02, "--csv", "-")
    assert list(csv.DictReader(io.StringIO(out))) == rows


@pytest.mark.parametrize("side", [0, 1])
def test_missing_and_extra(run_command, folders, metric, side):
    (folders[side] / "far.png").unlink()
    common = ("gate", *folders, "--metric", metric, "--threshold", 0.02)
    code, out, _ = run_command(*common)
    assert code == 2
    assert "ERROR: 3 pairs, 2 passed, 0 failed, 1 could not be judged" in out
    right, wrong = ("--allow-extra", "--allow-missing")[:: 1 if side == 0 else -1]
    assert run_command(*common, wrong)[0] == 2
    code, out, err = run_command(*common, right)
    assert code == 0
    assert "2 pairs, 2 passed" in out
    assert "far.png (no " in err


def test_could_not_judge_beats_failed(run_command, folders, metric):
    (folders[1] / "same.png").write_bytes(b"broken")
    code, out, _ = run_command("gate", *folders, "--metric", metric, "--threshold", 0.02)
    assert code == 2
    assert "1 passed, 1 failed, 1 could not be judged" in out
    assert next(iter(lines_of(out))) == "same.png"


def test_match_stem(run_command, folders, metric):
    a, b = folders
    PIL.Image.open(a / "same.png").convert("I").point(lambda v: v / 257).convert("L").save(b / "same.bmp")
    (b / "same.png").unlink()
    common = ("gate", a, b, "--metric", metric, "--threshold", 0.05)
    assert run_command(*common)[0] == 2
    assert run_command(*common, "--match-stem")[0] == 0


def test_background(run_command, tmp_path, metric):
    pixels = np.full((8, 8, 4), 255, np.uint8)
    pixels[..., 3] = 254
    (tmp_path / "veiled.png").write_bytes(png(pixels, depth=8, colour=6))
    pixels[..., :3] = 0
    pixels[..., 3] = 0
    (tmp_path / "clear.png").write_bytes(png(pixels, depth=8, colour=6))
    (tmp_path / "grey.png").write_bytes(png(np.full((8, 8), 128), depth=8, colour=0))
    common = ("gate", tmp_path / "clear.png", "--metric", metric, "--threshold", 0.3)
    # Grey like the background is told from what is clear by the second background, which is black.
    code, out, _ = run_command(*common, tmp_path / "grey.png")
    assert code == 0
    assert float(lines_of(out)["grey.png"][0]) == pytest.approx((128 / 255) ** 2, rel=1e-5)
    # White over black and over white, but clear over the other two: the worse of both.
    code, out, _ = run_command(*common, tmp_path / "veiled.png", "--background", "white")
    assert code == 1
    assert float(lines_of(out)["veiled.png"][0]) == pytest.approx((254 / 255) ** 2, rel=1e-4)
    assert run_command(*common, "--background", "puce-ish")[0] == 2


@pytest.mark.parametrize("case", ["no threshold", "bad threshold", "bad metric", "no metric", "provider"])
def test_nothing_could_be_judged(run_command, folders, metric, tmp_path, case):
    (tmp_path / "bad.onnx").write_bytes(metric.read_bytes()[:200])
    report = tmp_path / "report.json"
    report.write_text('{"verdict": "pass"}')  # of an earlier run
    options = {
        "no threshold": ("--metric", metric),
        "bad threshold": ("--metric", metric, "--threshold", "nan"),
        "bad metric": ("--metric", tmp_path / "bad.onnx", "--threshold", 1),
        "no metric": ("--metric", tmp_path / "gone.onnx", "--threshold", 1),
        "provider": ("--metric", metric, "--threshold", 1, "--provider", "abacus"),
    }[case]
    code, out, err = run_command("gate", *folders, *options, "--json", report)
    assert code == 2
    assert out == ""
    assert err.startswith("Error: ")
    assert err.count("\n") == 1
    found = json.loads(report.read_text())
    assert found["verdict"] == "error"
    assert err.strip() == f"Error: {found['error']}"


@pytest.mark.parametrize(
    "options", [(), ("--threshold", "x"), ("--frobnicate",), ("--json", "r", "--csv", "r"), ("--sort", "x")]
)
def test_usage_errors(run_command, folders, metric, options):
    given = ("--metric", metric) if options else ()
    assert run_command("gate", *folders, *given, *options)[0] == 2


def test_threshold_of_the_metric(run_command, folders, tmp_path):
    own = write_metric(tmp_path / "own.onnx", threshold=0.02)
    assert run_command("gate", *folders, "--metric", own)[0] == 1
    assert run_command("gate", *folders, "--metric", own, "--threshold", 0.05)[0] == 0


def test_a_report_that_cannot_be_written(run_command, folders, metric, tmp_path):
    common = ("gate", *folders, "--metric", metric, "--threshold", 1)
    (tmp_path / "file").write_text("")
    for option in ("--json", "--csv"):
        code, _, err = run_command(*common, option, tmp_path / "file" / "report")
        assert code == 2
        assert "Error: " in err
    assert not list(tmp_path.glob("**/*.tmp"))


def test_maps(run_command, folders, metric, tmp_path):
    common = ("gate", *folders, "--metric", metric)
    code, out, _ = run_command(
        *common, "--threshold", 0.02, "--maps", tmp_path / "maps", "--json", tmp_path / "r.json"
    )
    assert code == 1
    assert "viridis from 0 to 0.2" in out
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["settings"]["map_max"] == 0.2
    assert [result["map"] for result in report["results"]] == [
        str(tmp_path / "maps" / f"{name}.png") for name in ("far.png", "same.png", "sub/near.png")
    ]
    far, same = (PIL.Image.open(tmp_path / "maps" / f"{n}.png") for n in ("far.png", "same.png"))
    assert far.size == same.size == (10, 8)
    assert same.getpixel((0, 0)) == (68, 1, 84)  # where viridis begins
    assert far.getpixel((0, 0)) == pytest.approx((65, 68, 135), abs=1)  # a fifth of the way
    for bad in (folders[0] / "maps", folders[1]):
        assert run_command(*common, "--threshold", 0.02, "--maps", bad)[0] == 2
    assert run_command(*common, "--threshold", 0, "--maps", tmp_path / "maps")[0] == 2
    assert run_command(*common, "--threshold", 0, "--maps", tmp_path / "maps", "--map-max", 1)[0] == 1


def test_an_interrupted_gate_has_not_judged(run_command, folders, metric, monkeypatch):
    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("pe_runtime.gate.judge.Judge.score", interrupted)
    code, _, err = run_command("gate", *folders, "--metric", metric, "--threshold", 1)
    assert code == 2
    assert "interrupted" in err


def test_a_defect_of_the_gate_is_no_verdict(folders, metric, monkeypatch, capfd):
    def defective(*arguments, **options):
        raise RuntimeError("a defect")

    monkeypatch.setattr("pe_runtime.gate.judge.Judge.score", defective)
    with pytest.raises(SystemExit) as caught:
        main(["gate", *map(str, folders), "--metric", str(metric), "--threshold", "1"])
    assert caught.value.code == 2
    assert "a defect" in capfd.readouterr().err


@pytest.mark.skipif(sys.platform != "linux", reason="file names of any bytes are Linux's")
def test_hostile_file_names(run_command, tmp_path, metric):
    name = os.fsdecode(b"\x1b[31m[red]\xff\n.png")
    for side in "ab":
        (tmp_path / side).mkdir()
        write_grey(tmp_path / side / name, 7)
    out_path = tmp_path / "r.csv"
    common = ("gate", tmp_path / "a", tmp_path / "b", "--metric", metric, "--threshold", 1)
    code, out, _ = run_command(*common, "--json", tmp_path / "r.json", "--csv", out_path)
    assert code == 0
    assert "\\x1b[31m[red]\\udcff\\n.png" in out
    assert "\x1b" not in out
    assert json.loads((tmp_path / "r.json").read_text())["results"][0]["name"] == name
    assert "\\udcff" in out_path.read_text(encoding="utf-8")


def test_neither_command_imports_torch(folders, metric, tmp_path):
    a, b = folders
    # Everything that is imported late: OpenCV, ONNX Runtime, matplotlib, the progress bar.
    done = run_python(
        WITHOUT_TORCH,
        "gate",
        a,
        b,
        "--metric",
        metric,
        "--threshold",
        0.02,
        "--maps",
        tmp_path / "maps",
        "--json",
        "-",
    )
    assert done.returncode == 1, done.stderr
    assert json.loads(done.stdout)["counts"]["pairs"] == 3
    save_file({"pe": np.zeros(3)}, tmp_path / "p.safetensors")
    for file in (metric, tmp_path / "p.safetensors"):
        done = run_python(WITHOUT_TORCH, "describe", file)
        assert done.returncode == 0, done.stderr


def test_the_hook_catches_torch():
    done = run_python(WITHOUT_TORCH.split("from pe_runtime")[0] + "import torch")
    assert "torch is imported" in done.stderr


def test_a_terminal_without_unicode(folders, metric):
    done = run_python(
        WITHOUT_TORCH, "gate", *folders, "--metric", metric, "--threshold", 1, PYTHONIOENCODING="ascii"
    )
    assert done.returncode == 0, done.stderr
    assert "far.png" in done.stdout


@pytest.mark.skipif(sys.platform == "win32", reason="pipes close differently")
@pytest.mark.parametrize("options", [(), ("--json", "-")])
def test_a_reader_that_goes_away(folders, metric, options):
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            WITHOUT_TORCH,
            "gate",
            *folders,
            "--metric",
            metric,
            "--threshold",
            "1",
            *options,
        ],
        stdout=write,
        stderr=subprocess.PIPE,
        text=True,
        timeout=120,
        check=False,
    )
    os.close(write)
    assert done.returncode not in (0, 1)
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="there are no pseudo-terminals")
@pytest.mark.parametrize("quiet", [False, True])
def test_progress_is_shown_on_a_terminal_only(folders, metric, quiet):
    terminal, stderr = os.openpty()
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, "gate", *folders, "--metric", metric, "--threshold", "1"]
        + ["--quiet"] * quiet,
        stdout=subprocess.PIPE,
        stderr=stderr,
        env={**os.environ, "TERM": "xterm"},
        timeout=120,
        check=False,
    )
    os.write(stderr, b"end")
    shown = os.read(terminal, 1 << 16)
    os.close(stderr)
    os.close(terminal)
    assert done.returncode == 0
    assert b"judging" not in done.stdout
    assert (b"judging" in shown) != quiet
    assert (shown == b"end") == quiet


@pytest.mark.parametrize("name", ["gate", "describe"])
def test_help_has_an_example(run_command, name):
    code, out, _ = run_command(name, "--help")
    assert code == 0
    assert f"pe-runtime {name} " in out.split("Example:")[1]
