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
from gate_helpers import metadata, png, tiff, write_metric

from pe_runtime import __version__
from pe_runtime.cli import main

# An import hook that stands in for a machine without torch: asking for it is an error.
WITHOUT_TORCH = """
import sys
class NoTorch:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "torchvision"):
            raise AssertionError(f"{name} is imported")
sys.meta_path.insert(0, NoTorch())
from pe_runtime.cli import main
try:
    main()
finally:
    assert not {"torch", "torchvision"} & set(sys.modules)
"""


@pytest.fixture
def run(capfd):
    """Call the command line in this process: exit code, standard output, standard error."""

    def call(*arguments):
        with pytest.raises(SystemExit) as caught:
            main([str(argument) for argument in arguments])
        out, err = capfd.readouterr()
        assert "Traceback" not in err
        return caught.value.code or 0, out, err

    return call


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
def test_verdict(run, folders, metric, threshold, code, verdict):
    got, out, err = run("gate", *folders, "--metric", metric, "--threshold", threshold)
    assert got == code
    assert err == ""
    rows = lines_of(out)
    assert list(rows) == ["far.png", "sub/near.png", "same.png"]
    assert [float(row[0]) for row in rows.values()] == pytest.approx([0.04, (25 / 255) ** 2, 0], rel=1e-5)
    assert [row[2] for row in rows.values()] == ["fail" if code else "pass", "pass", "pass"]
    assert out.rstrip().endswith(
        f"{verdict}: 3 pairs, {3 - code} passed, {code} failed, 0 could not be judged"
    )


def test_sort_by_name_and_quiet(run, folders, metric):
    common = ("gate", *folders, "--metric", metric, "--threshold", 0.02)
    _, out, _ = run(*common, "--sort", "name")
    assert list(lines_of(out)) == ["far.png", "same.png", "sub/near.png"]
    code, out, _ = run(*common, "--quiet")
    assert code == 1
    assert list(lines_of(out)) == ["far.png"]


def test_two_files(run, folders, metric):
    a, b = folders
    common = ("--metric", metric, "--threshold", 0.02)
    assert run("gate", a / "sub/near.png", b / "sub/near.png", *common)[0] == 0
    assert run("gate", a / "far.png", b / "far.png", *common)[0] == 1
    assert run("gate", a / "far.png", b, *common)[0] == 2
    assert run("gate", a / "far.png", b / "gone.png", *common)[0] == 2


def test_json(run, folders, metric, tmp_path):
    a, b = folders
    (b / "notes.txt").write_text("x")
    code, out, err = run("gate", a, b, "--metric", metric, "--threshold", 0.02, "--json", "-")
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
    run("gate", a, b, "--metric", metric, "--threshold", 0.02, "--json", path)
    assert json.loads(path.read_text()) == report


def test_csv(run, folders, metric, tmp_path):
    (folders[1] / "same.png").write_bytes(b"broken")
    path = tmp_path / "scores.csv"
    code, out, _ = run("gate", *folders, "--metric", metric, "--threshold", 0.02, "--csv", path)
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
    _, out, _ = run("gate", *folders, "--metric", metric, "--threshold", 0.02, "--csv", "-")
    assert list(csv.DictReader(io.StringIO(out))) == rows


@pytest.mark.parametrize("side", [0, 1])
def test_missing_and_extra(run, folders, metric, side):
    (folders[side] / "far.png").unlink()
    common = ("gate", *folders, "--metric", metric, "--threshold", 0.02)
    code, out, _ = run(*common)
    assert code == 2
    assert "ERROR: 3 pairs, 2 passed, 0 failed, 1 could not be judged" in out
    right, wrong = ("--allow-extra", "--allow-missing")[:: 1 if side == 0 else -1]
    assert run(*common, wrong)[0] == 2
    code, out, err = run(*common, right)
    assert code == 0
    assert "2 pairs, 2 passed" in out
    assert "far.png (no " in err


def test_could_not_judge_beats_failed(run, folders, metric):
    (folders[1] / "same.png").write_bytes(b"broken")
    code, out, _ = run("gate", *folders, "--metric", metric, "--threshold", 0.02)
    assert code == 2
    assert "1 passed, 1 failed, 1 could not be judged" in out
    assert next(iter(lines_of(out))) == "same.png"


def test_match_stem(run, folders, metric):
    a, b = folders
    PIL.Image.open(a / "same.png").convert("I").point(lambda v: v / 257).convert("L").save(b / "same.bmp")
    (b / "same.png").unlink()
    common = ("gate", a, b, "--metric", metric, "--threshold", 0.05)
    assert run(*common)[0] == 2
    assert run(*common, "--match-stem")[0] == 0


def test_background(run, tmp_path, metric):
    pixels = np.full((8, 8, 4), 255, np.uint8)
    (tmp_path / "white.png").write_bytes(png(pixels, depth=8, colour=6))
    pixels[..., 3] = 0
    (tmp_path / "clear.png").write_bytes(png(pixels, depth=8, colour=6))
    common = ("gate", tmp_path / "white.png", tmp_path / "clear.png", "--metric", metric, "--threshold", 0.01)
    assert run(*common)[0] == 1
    assert run(*common, "--background", "white")[0] == 0
    assert run(*common, "--background", "puce-ish")[0] == 2


@pytest.mark.parametrize("case", ["no threshold", "bad threshold", "bad metric", "no metric", "provider"])
def test_nothing_could_be_judged(run, folders, metric, tmp_path, case):
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
    code, out, err = run("gate", *folders, *options, "--json", report)
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
def test_usage_errors(run, folders, metric, options):
    given = ("--metric", metric) if options else ()
    assert run("gate", *folders, *given, *options)[0] == 2


def test_threshold_of_the_metric(run, folders, tmp_path):
    own = write_metric(tmp_path / "own.onnx", threshold=0.02)
    assert run("gate", *folders, "--metric", own)[0] == 1
    assert run("gate", *folders, "--metric", own, "--threshold", 0.05)[0] == 0


def test_a_report_that_cannot_be_written(run, folders, metric, tmp_path):
    common = ("gate", *folders, "--metric", metric, "--threshold", 1)
    (tmp_path / "file").write_text("")
    for option in ("--json", "--csv"):
        code, _, err = run(*common, option, tmp_path / "file" / "report")
        assert code == 2
        assert "Error: " in err
    assert not list(tmp_path.glob("**/*.tmp"))


def test_maps(run, folders, metric, tmp_path):
    common = ("gate", *folders, "--metric", metric)
    code, out, _ = run(
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
        assert run(*common, "--threshold", 0.02, "--maps", bad)[0] == 2
    assert run(*common, "--threshold", 0, "--maps", tmp_path / "maps")[0] == 2
    assert run(*common, "--threshold", 0, "--maps", tmp_path / "maps", "--map-max", 1)[0] == 1


def test_an_interrupted_gate_has_not_judged(run, folders, metric, monkeypatch):
    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("pe_runtime.gate.judge.Judge.score", interrupted)
    code, _, err = run("gate", *folders, "--metric", metric, "--threshold", 1)
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
def test_hostile_file_names(run, tmp_path, metric):
    name = os.fsdecode(b"\x1b[31m[red]\xff\n.png")
    for side in "ab":
        (tmp_path / side).mkdir()
        write_grey(tmp_path / side / name, 7)
    out_path = tmp_path / "r.csv"
    common = ("gate", tmp_path / "a", tmp_path / "b", "--metric", metric, "--threshold", 1)
    code, out, _ = run(*common, "--json", tmp_path / "r.json", "--csv", out_path)
    assert code == 0
    assert "\\x1b[31m[red]\\udcff\\n.png" in out
    assert "\x1b" not in out
    assert json.loads((tmp_path / "r.json").read_text())["results"][0]["name"] == name
    assert "\\udcff" in out_path.read_text(encoding="utf-8")


def process(*arguments, code=WITHOUT_TORCH, **environment):
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        timeout=120,
        check=False,
    )


def test_neither_command_imports_torch(folders, metric, tmp_path):
    a, b = folders
    # Everything that is imported late: OpenCV, ONNX Runtime, matplotlib, the progress bar.
    done = process(
        "gate", a, b, "--metric", metric, "--threshold", 0.02, "--maps", tmp_path / "maps", "--json", "-"
    )
    assert done.returncode == 1, done.stderr
    assert json.loads(done.stdout)["counts"]["pairs"] == 3
    save_file({"pe": np.zeros(3)}, tmp_path / "p.safetensors")
    for file in (metric, tmp_path / "p.safetensors"):
        done = process("describe", file)
        assert done.returncode == 0, done.stderr


def test_the_hook_catches_torch():
    done = process(code=WITHOUT_TORCH.split("from pe_runtime")[0] + "import torch")
    assert "torch is imported" in done.stderr


def test_a_terminal_without_unicode(folders, metric):
    done = process("gate", *folders, "--metric", metric, "--threshold", 1, PYTHONIOENCODING="ascii")
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
    done = process("image", 150, *fuzz_targets(tmp_path), code=FUZZ)
    assert done.returncode == 0, done.stderr
    good, bad = map(int, done.stdout.split())
    assert good > 0
    assert bad > 0


@pytest.mark.parametrize(("uint8", "kind"), [(False, "maps"), (True, "score")])
def test_damaged_metrics_are_refused_or_run(tmp_path, uint8, kind):
    path = write_metric(tmp_path / "m.onnx", uint8=uint8)
    done = process(kind, 500, path, code=FUZZ)
    assert done.returncode == 0, done.stderr
    good, bad = map(int, done.stdout.split())
    assert good > 0
    assert bad > 0


def test_describe_metric(run, metric, tmp_path):
    code, out, _ = run("describe", metric, "--json")
    described = json.loads(out)
    assert code == 0
    assert described["kind"] == "metric"
    assert described["metadata"] == metadata()
    assert described["inputs"]["reference"] == {"type": "float32", "shape": ["B", 3, "H", "W"]}
    assert described["outputs"]["map"] == {"type": "float32", "shape": ["B", 1, "H", "W"]}
    assert described["opsets"] == {"ai.onnx": 18}
    code, out, _ = run("describe", metric)
    rows = dict(line.split(maxsplit=1) for line in out.splitlines())
    assert rows["inputs.reference"] == "float32 (B, 3, H, W)"
    assert rows["metadata.metric"] == "feature_distance"
    assert rows["metadata.threshold"] == "none"


def test_describe_an_onnx_file_that_is_no_metric(run, metric, tmp_path):
    path = write_metric(tmp_path / "m.onnx", meta=False)
    code, out, _ = run("describe", path, "--json")
    assert code == 0
    assert json.loads(out)["metadata"] is None


def test_describe_profile(run, tmp_path):
    path = tmp_path / "p.safetensors"
    about = {"format": 1, "tap": "relu2_2", "rows": [1, 2]}
    save_file({"pe": np.zeros((2, 3), np.float32)}, path, metadata={"pe_runtime": json.dumps(about)})
    code, out, _ = run("describe", path, "--json")
    described = json.loads(out)
    assert code == 0
    assert described["kind"] == "profile"
    assert described["metadata"] == about
    assert described["tensors"] == {"pe": {"type": "F32", "shape": [2, 3]}}
    _, out, _ = run("describe", path)
    assert "tensors.pe" in out
    assert "[1, 2]" in out


@pytest.mark.parametrize(
    "data", [b"", b"text", b"\xff" * 8 + b"{", b"\x10\0\0\0\0\0\0\0{}", b"\x02" + bytes(7) + b"{]"]
)
def test_describe_refuses(run, tmp_path, data):
    path = tmp_path / "file"
    path.write_bytes(data)
    code, out, err = run("describe", path)
    assert code == 2
    assert out == ""
    assert err.startswith("Error: ")


def test_describe_refuses_metadata_that_is_no_object(run, tmp_path):
    save_file({"pe": np.zeros(2)}, tmp_path / "p.safetensors", metadata={"pe_runtime": "[]"})
    assert run("describe", tmp_path / "p.safetensors")[0] == 2


@pytest.mark.parametrize("name", ["gate", "describe"])
def test_help_has_an_example(run, name):
    code, out, _ = run(name, "--help")
    assert code == 0
    assert f"pe-runtime {name} " in out.split("Example:")[1]
