"""pe_gate, the gate in C++, against the gate in Python: the same reports, on the same folders."""

import json
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

sys.path.insert(0, str(Path(__file__).parent))
import gate_differential
import native_build
from gate_corpus import PHOTO, SIZE, coloured, jpegs, others, pngs, saved
from gate_helpers import chunk, png, write_metric
from gate_profiles import profiles

from pe_runtime.gate import read_image

ATTACKS = Path(__file__).resolve().parents[1] / "attacks"


@pytest.fixture(scope="module")
def program():
    return native_build.build("pe_gate", needs="PE_GATE_REASON") / "csrc" / "app" / "pe_gate"


@pytest.fixture
def pe_gate(program):
    """Run pe_gate: exit code, standard output, standard error."""

    def call(*arguments, **environment):
        done = subprocess.run(
            [program, *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=300,
            env={
                **os.environ,
                "PE_RUNTIME_ONNXRUNTIME": str(native_build.onnxruntime_library()),
                **environment,
            },
        )
        assert done.returncode in (0, 1, 2), done.stderr
        return done.returncode, done.stdout, done.stderr

    return call


def write_corpus(folder, files, reference):
    """Files as candidates, and for each a reference of noise with the same size as seen."""
    for name, data in files:
        path = folder / "candidate" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        swapped = any(f"turned{i}" in name for i in range(5, 9)) or name in (
            "xmp.png",
            "raw profile.png",
            "turned.webp",
        )
        width, height = SIZE[::-1] if swapped else SIZE
        if name == "odd.jpg":
            width, height = 31, 23
        (folder / reference).mkdir(exist_ok=True)
        noise = np.random.default_rng(len(name)).integers(0, 256, (height, width, 3), dtype=np.uint8)
        (folder / reference / name).write_bytes(saved(noise, "PNG"))


def reports(tmp_path, run_command, pe_gate, *arguments):
    """What both gates do with the same arguments: code, output, errors; and their JSON and CSV reports."""
    runs, texts = [], []
    for name, gate in (("python", lambda *a: run_command("gate", *a)), ("native", pe_gate)):
        files = [tmp_path / f"{name}.json", tmp_path / f"{name}.csv"]
        runs.append(gate(*arguments, "--json", files[0], "--csv", files[1]))
        texts.append([file.read_text() for file in files])
    return runs, texts


def shortened(report):
    """The report with the part of each error that is not a decoder's own words."""
    for result in report["results"]:
        if result["error"] is not None:
            result["error"] = result["error"].partition(": ")[0]
    return report


@pytest.mark.parametrize("uint8", [False, True])
@pytest.mark.parametrize("kind", [pngs, jpegs, others, coloured])
def test_images_are_read_as_by_the_python_gate(tmp_path, run_command, pe_gate, kind, uint8):
    write_corpus(tmp_path, kind(), "reference")
    metric = write_metric(tmp_path / "m.onnx", uint8=uint8)
    (python, native), ((first, _), (second, _)) = reports(
        tmp_path, run_command, pe_gate, tmp_path / "reference", tmp_path / "candidate",
        "--metric", metric, "--threshold", "0.15", "--background", "#102030",
    )  # fmt: skip
    assert native[0] == python[0]
    first, second = (shortened(json.loads(text)) for text in (first, second))
    assert sum(result["score"] is not None for result in first["results"]) > 20
    for one, other in zip(first["results"], second["results"], strict=True):
        assert one == other
    assert first == second


def write_image(path, level, size=(16, 12)):
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.new("RGB", size, (level, level // 2, 255 - level)).save(path)
    return path


@pytest.fixture
def folders(tmp_path):
    """Two folders in which something of everything happens to pairs."""
    for side, level in (("old", 10), ("new", 20)):
        write_image(tmp_path / side / "same.png", 10)
        write_image(tmp_path / side / "other.png", level)
        write_image(tmp_path / side / "deep" / "far.png", level * 12)
        write_image(tmp_path / side / "deep" / "日本 ü.png", level)
        write_image(tmp_path / side / ".hidden.png", level)
        write_image(tmp_path / side / "size.png", 10, (level, 12))
        (tmp_path / side / "notes.txt").write_text("no image")
    write_image(tmp_path / "old" / "gone.png", 1)
    write_image(tmp_path / "new" / 'fresh, "quoted".png', 1)
    write_image(tmp_path / "old" / "stem.png", 10)
    write_image(tmp_path / "new" / "stem.bmp", 11)
    (tmp_path / "new" / "loop").symlink_to(tmp_path / "new", target_is_directory=True)
    (tmp_path / "new" / "broken.png").symlink_to(tmp_path / "nowhere.png")
    (tmp_path / "new" / "twin.png").symlink_to(tmp_path / "old" / "same.png")
    (tmp_path / "old" / "twin.png").symlink_to(tmp_path / "old" / "same.png")
    return tmp_path / "old", tmp_path / "new"


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["--allow-missing", "--allow-extra"],
        ["--match-stem", "--allow-extra", "--sort", "name"],
        ["--quiet", "--jobs", "3", "--threads", "1", "--background", "Teal"],
    ],
    ids=" ".join,
)
def test_reports_are_those_of_the_python_gate(tmp_path, folders, run_command, pe_gate, options):
    metric = write_metric(tmp_path / "m.onnx", threshold=0.1)
    (python, native), (first, second) = reports(
        tmp_path, run_command, pe_gate, *folders, "--metric", metric, *options
    )
    assert native == python
    assert second == first
    assert native[0] == 2


@pytest.mark.parametrize(
    ("threshold", "code", "verdict"), [("0.01", 0, "pass"), ("0.0001", 1, "fail"), ("0", 1, "fail")]
)
def test_two_files(tmp_path, run_command, pe_gate, threshold, code, verdict):
    metric = write_metric(tmp_path / "m.onnx")
    pair = write_image(tmp_path / "a.png", 10), write_image(tmp_path / "b.png", 20)
    (python, native), (first, second) = reports(
        tmp_path, run_command, pe_gate, *pair, "--metric", metric, "--threshold", threshold
    )
    assert (native, second) == (python, first)
    assert native[0] == code
    assert json.loads(second[0])["verdict"] == verdict


def test_names_that_are_no_text(tmp_path, run_command, pe_gate):
    metric = write_metric(tmp_path / "m.onnx", threshold=0.1)
    for side in ("old", "new"):
        (tmp_path / side).mkdir()
        for name in (
            b"\xff.png",
            "\ue000.png".encode(),
            "😀\u202e.png".encode(),
            b"\x1b[31m.png",
            b"a\nb.png",
        ):
            write_image(tmp_path / "x.png", 10).rename(
                os.fsdecode(os.fsencode(tmp_path / side) + b"/" + name)
            )
    (python, native), (first, second) = reports(
        tmp_path, run_command, pe_gate, tmp_path / "old", tmp_path / "new", "--metric", metric
    )
    assert second == first
    assert native[0] == python[0] == 0
    assert native[1] == python[1]


def test_working_directory_and_untidy_paths(tmp_path, folders, run_command, pe_gate, monkeypatch):
    metric = write_metric(tmp_path / "m.onnx", threshold=0.1)
    monkeypatch.chdir(folders[0])
    (python, native), (first, second) = reports(
        tmp_path, run_command, pe_gate, ".", f"{tmp_path}//new/./", "--metric", f"./../{metric.name}"
    )
    assert native == python
    assert second == first


@pytest.mark.parametrize("top", [None, "0.01"])
def test_maps(tmp_path, run_command, pe_gate, top):
    # Maps of a coarser size than the images, which are not square.
    metric = tmp_path / "m.onnx"
    pooled_metric(metric)
    write_corpus(tmp_path, list(pngs())[-6:], "reference")
    options = ["--metric", metric, "--threshold", "0.1"] + ([] if top is None else ["--map-max", top])
    folders = tmp_path / "reference", tmp_path / "candidate"
    python = run_command("gate", *folders, *options, "--maps", tmp_path / "python")
    native = pe_gate(*folders, *options, "--maps", tmp_path / "native")
    assert native[1] == python[1].replace(str(tmp_path / "python"), str(tmp_path / "native"))
    files = sorted(path.relative_to(tmp_path / "python") for path in (tmp_path / "python").rglob("*"))
    assert len(files) >= 4
    assert files == sorted(path.relative_to(tmp_path / "native") for path in (tmp_path / "native").rglob("*"))
    for file in files:
        one, other = (PIL.Image.open(tmp_path / side / file) for side in ("python", "native"))
        assert one.text == other.text
        np.testing.assert_array_equal(np.asarray(one), np.asarray(other))


def pooled_metric(path):
    import onnx
    from onnx import helper

    model = onnx.load(write_metric(path))
    for node in model.graph.node:
        node.output[:] = ["fine" if name == "map" else name for name in node.output]
        node.input[:] = ["fine" if name == "map" else name for name in node.input]
    model.graph.node.append(
        helper.make_node("AveragePool", ["fine"], ["map"], kernel_shape=[5, 3], strides=[5, 3])
    )
    for axis in (2, 3):
        model.graph.output[1].type.tensor_type.shape.dim[axis].dim_param = f"pooled{axis}"
    onnx.save(model, path)


CASES = {
    "threshold": (["--threshold", "-1"], "threshold: expected a finite number >= 0, got -1"),
    "nan": (["--threshold", "nan"], "threshold: expected a finite number >= 0, got nan"),
    "background": (["--background", "mauve-ish"], "background: expected a colour such as"),
    "jobs": (["--jobs", "-2"], "jobs: expected 0 (one per core) or more, got -2"),
    "threads": (["--threads", "-2"], "threads: expected 0 (one per core) or more, got -2"),
    "provider": (["--provider", "abacus"], "got 'abacus'"),
    "map max": (["--maps", "maps", "--map-max", "0"], "map-max: expected a number of at least 1e-30, got 0"),
    "tiny map max": (
        ["--maps", "maps", "--map-max", "1e-50"],
        "expected a number of at least 1e-30, got 1e-50",
    ),
    "map max without maps": (["--map-max", "inf"], "map-max: expected a number of at least 1e-30, got inf"),
    "tiny threshold": (["--maps", "maps", "--threshold", "1e-40"], "of at least 1e-30, got 1e-39"),
    "maps inside": (["--maps", "{new}/maps"], "maps: expected a directory outside candidate"),
    "metric": (["--metric", "missing.onnx"], "No such file or directory: 'missing.onnx'"),
    "directory": (["--metric", "."], "expected an ONNX file, got a directory"),
}


@pytest.mark.parametrize("case", CASES)
def test_errors_that_precede_all_pairs(tmp_path, folders, run_command, pe_gate, monkeypatch, case):
    monkeypatch.chdir(tmp_path)
    options, message = CASES[case]
    options = [option.format(new=folders[1]) for option in options]
    metric = write_metric(tmp_path / "m.onnx", threshold=0.1)
    if "--metric" not in options:
        options += ["--metric", metric]
    (python, native), (first, second) = reports(tmp_path, run_command, pe_gate, *folders, *options)
    assert native[0] == python[0] == 2
    assert message in native[2]
    assert native[1] == ""
    assert second[1] == first[1]
    first, second = json.loads(first[0]), json.loads(second[0])
    assert message in second["error"]
    assert first == second


def test_usage(tmp_path, pe_gate):
    metric = write_metric(tmp_path / "m.onnx")
    code, out, _ = pe_gate("--help")
    assert code == 0
    assert "--allow-missing" in out
    assert pe_gate("--version")[1].startswith("pe_gate, version ")
    for arguments in ([], ["a", "b"], ["a", "b", "--metric", metric, "--sort", "size"], ["--what"]):
        code, out, err = pe_gate(*arguments)
        assert code == 2
        assert out == ""
        assert err
    code, _, err = pe_gate("a", "b", "--metric", metric, "--json", "x", "--csv", "./x")
    assert code == 2
    assert "expected different files" in err


def test_no_onnx_runtime(tmp_path, pe_gate):
    metric = write_metric(tmp_path / "m.onnx", threshold=0.1)
    pair = write_image(tmp_path / "a.png", 10), write_image(tmp_path / "b.png", 20)
    code, _, err = pe_gate(*pair, "--metric", metric, PE_RUNTIME_ONNXRUNTIME=str(tmp_path / "none.so"))
    assert code == 2
    assert "PE_RUNTIME_ONNXRUNTIME: expected the library of ONNX Runtime" in err
    library = native_build.onnxruntime_library()
    code, _, _ = pe_gate(
        *pair, "--metric", metric, "--onnxruntime", library, PE_RUNTIME_ONNXRUNTIME=str(tmp_path / "none.so")
    )
    assert code == 0


def test_output_that_cannot_be_written(tmp_path, program):
    metric = write_metric(tmp_path / "m.onnx", threshold=0.1)
    pair = write_image(tmp_path / "a.png", 10), write_image(tmp_path / "b.png", 20)
    environment = {**os.environ, "PE_RUNTIME_ONNXRUNTIME": str(native_build.onnxruntime_library())}
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [program, *pair, "--metric", metric],
            stdout=full,
            stderr=subprocess.PIPE,
            env=environment,
            timeout=60,
        )
    assert done.returncode == 2
    assert b"Error: report: expected to be read to its end" in done.stderr
    with subprocess.Popen(
        [program, *pair, "--metric", metric], stdout=subprocess.PIPE, env=environment
    ) as run:
        run.stdout.close()
        assert run.wait(60) == 2


def test_damaged_images_do_not_end_it(tmp_path, pe_gate):
    metric = write_metric(tmp_path / "m.onnx", threshold=1)
    rng = np.random.default_rng(11)
    count = 0
    for name, data in (*pngs(), *jpegs(), *others()):
        for turn in range(6):
            changed = bytearray(data)
            for _ in range(rng.integers(1, 5)):
                at = int(rng.integers(len(changed))) if changed else 0
                action = rng.integers(8)
                if not changed:
                    break
                if action < 4:
                    changed[at] ^= 1 << rng.integers(8)
                elif action < 6:
                    changed[at] = rng.integers(256)
                elif action == 6:
                    del changed[at : at + rng.integers(1, 9)]
                elif rng.random() < 0.3:
                    del changed[max(at, 1) :]
            count += 1
            stem, _, suffix = name.rpartition(".")
            for side, content in (("old", data), ("new", changed)):
                path = tmp_path / side / f"{stem} {turn}.{suffix}"
                path.parent.mkdir(exist_ok=True)
                path.write_bytes(content)
    code, _, _ = pe_gate(
        tmp_path / "old", tmp_path / "new", "--metric", metric, "--json", tmp_path / "report.json"
    )
    assert code == 2
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["counts"]["pairs"] == count
    assert report["counts"]["errors"] > count / 4
    assert report["counts"]["passed"] > count / 10


def test_pairs_scored_at_once(tmp_path, folders, pe_gate):
    arguments = [*folders, "--metric", write_metric(tmp_path / "m.onnx", threshold=0.1), "--json", "-"]
    assert pe_gate(*arguments, "--at-once", "3")[:2] == pe_gate(*arguments)[:2]
    code, _, err = pe_gate(*arguments, "--at-once", "0")
    assert code == 2
    assert "at-once: expected 1 or more, got 0" in err


@pytest.mark.parametrize(
    "text",
    [
        "1_0",
        "0x1p-3",
        " 1",
        "1 ",
        "+-1",
        "",
        ".",
        "e5",
        "1e",
        "1e+",
        "infinity",
        "NaN",
        "١",
        "1,5",
        "1e999",
        "-0",
    ],
)
def test_spellings_that_are_no_threshold(tmp_path, run_command, pe_gate, text):
    pair = write_image(tmp_path / "a.png", 10), write_image(tmp_path / "b.png", 20)
    metric = write_metric(tmp_path / "m.onnx", threshold=0.1)
    (python, native), (first, second) = reports(
        tmp_path, run_command, pe_gate, *pair, "--metric", metric, f"--threshold={text}"
    )
    assert (native, second) == (python, first)
    assert native[0] == 2
    assert json.loads(second[0])["error"] == f"threshold: expected a finite number >= 0, got {text}"


@pytest.mark.parametrize(
    "text", ["1", "+1", "01.", ".5", "5E-1", "1e+2", "1e-400", "0.1000000000000000055511151231"]
)
def test_spellings_of_thresholds(tmp_path, run_command, pe_gate, text):
    pair = write_image(tmp_path / "a.png", 10), write_image(tmp_path / "b.png", 10)
    (python, native), (first, second) = reports(
        tmp_path,
        run_command,
        pe_gate,
        *pair,
        "--metric",
        write_metric(tmp_path / "m.onnx"),
        "--threshold",
        text,
    )
    assert (native, second) == (python, first)
    assert json.loads(second[0])["threshold"] == float(text)


@pytest.fixture
def unusual(tmp_path):
    """Two folders of files that are images by their suffix or their content, or are neither."""
    image = PIL.Image.fromarray(PHOTO)
    contents = {
        "same.png": saved(image, "PNG"),
        "deep/picture.GIF": saved(image, "GIF"),
        "photo.avif": b"\0\0\0\x1cftypavif" + bytes(16),
        "drawing.svg": b"<svg/>",
        "no suffix": saved(image, "PNG"),
        "wrong.txt": saved(image, "JPEG"),
        "heic.bin": b"\0\0\0\x18ftypheic",
        "film.mp4": b"\0\0\0\x18ftypisom",
        "sound.wav": b"RIFF\0\0\0\0WAVE",
        "webp.bin": b"RIFF\0\0\0\0WEBP",
        "jxl.bin": b"\0\0\0\x0cJXL \r\n\x87\n",
        "bare.jxl": b"\xff\x0a",
        "bare": b"\xff\x0a",
        "BM": b"BM",
        "notes": b"text",
        "empty": b"",
        "[a]^.tiff": saved(image, "TIFF"),
    }
    for side in ("old", "new"):
        for name, content in contents.items():
            (tmp_path / side / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / side / name).write_bytes(content)
        os.mkfifo(tmp_path / side / "fifo.png")
        os.mkfifo(tmp_path / side / "fifo")
        (tmp_path / side / "broken").symlink_to("nowhere")
    return tmp_path / "old", tmp_path / "new"


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["--strict"],
        ["--ignore", "*.gif", "--ignore", "*.[!tp]*", "--ignore", "fifo*", "--ignore", "broken"],
        [
            "--strict",
            *(f"--ignore={p}" for p in ("*.[!p]*", "b*", "no*", "B*", "empty", "fifo*", "deep/*", "w*")),
        ],
        ["--ignore", "?????.*", "--ignore", "deep*", "--ignore", "[^n]*"],
        [
            "--ignore",
            "[[]a]*",
            "--ignore",
            "[]a-c[]*",
            "--ignore",
            "[!]",
            "--ignore",
            "[z-a]*",
            "--ignore",
            "[a-",
        ],
        [
            "--ignore",
            "DEEP/*",
            "--ignore",
            "\\*",
            "--ignore",
            "*/picture*",
            "--ignore",
            "*o*o*",
            "--match-stem",
        ],
        ["--ignore", "*"],
    ],
    ids=" ".join,
)
def test_files_that_cannot_be_judged(tmp_path, unusual, run_command, pe_gate, options):
    metric = write_metric(tmp_path / "m.onnx", threshold=0.1)
    (python, native), (first, second) = reports(
        tmp_path, run_command, pe_gate, *unusual, "--metric", metric, *options
    )
    assert second == first
    assert native == python
    # All that is not ignored is judged in the fourth case.
    assert native[0] == (0 if len(options) == 9 else 2)


def test_strict_pairs(tmp_path, run_command, pe_gate):
    for side in ("old", "new"):
        write_image(tmp_path / side / "same.png", 10)
        write_image(tmp_path / side / "alpha.png", 10)
        (tmp_path / side / "notes.txt").write_text("no image")
        (tmp_path / side / ".hidden").write_text("no image")
    write_image(tmp_path / "new" / "extra.png", 10)
    PIL.Image.new("RGBA", (16, 12), (10, 5, 245, 255)).save(tmp_path / "old" / "alpha.png")
    arguments = [
        tmp_path / "old",
        tmp_path / "new",
        "--metric",
        write_metric(tmp_path / "m.onnx", threshold=0.1),
    ]
    (python, native), (first, second) = reports(
        tmp_path, run_command, pe_gate, *arguments, "--strict", "--allow-extra"
    )
    assert (native, second) == (python, first)
    report = json.loads(second[0])
    assert report["error"] == "--strict: 2 files skipped"
    assert report["results"][0]["error"] == "--strict: only the reference has transparency"
    assert report["results"][0]["warnings"] == ["only the reference has transparency"]
    assert [result["verdict"] for result in report["results"]] == ["error", "pass"]
    assert report["settings"]["strict"] is True


def test_opaque_background_over_transparency(tmp_path, run_command, pe_gate):
    grey = np.full((24, 32, 4), 128, np.uint8)
    clear, solid = grey.copy(), grey.copy()
    clear[..., 3], solid[..., 3] = 0, 255
    pair = tmp_path / "a.png", tmp_path / "b.png"
    for path, pixels in zip(pair, (clear, solid), strict=True):
        path.write_bytes(saved(pixels, "PNG"))
    arguments = *pair, "--metric", write_metric(tmp_path / "m.onnx", threshold=0.1)
    (python, native), (first, second) = reports(
        tmp_path, run_command, pe_gate, *arguments, "--maps", tmp_path / "maps", "--map-max", "0.5"
    )
    assert (native, second) == (python, first)
    (result,) = json.loads(second[0])["results"]
    assert result["verdict"] == "fail"
    # Over black.
    assert result["score"] == pytest.approx((128 / 255) ** 2, rel=1e-6)
    # The map is that of the worse score.
    shown = np.asarray(PIL.Image.open(tmp_path / "maps" / "b.png.png"))
    assert (shown == shown[0, 0]).all()
    assert shown[0, 0].tolist() == np.asarray(PIL.Image.open(tmp_path / "maps" / "b.png.png"))[0, 0].tolist()


@pytest.mark.parametrize(("name", "data"), [pytest.param(*entry, id=entry[0]) for entry in profiles()])
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L"])
def test_profiles_are_applied_as_by_the_python_gate(tmp_path, run_command, pe_gate, name, data, mode):
    # All greys, or 65,536 colours, whose conversion by Pillow is the reference: any other level would show.
    levels = np.random.default_rng(3).permutation(1 << 16).reshape(256, 256)
    colours = np.dstack([levels >> 8, levels & 255, levels * 40503 >> 7 & 255, np.full_like(levels, 255)])
    pixels = levels & 255 if mode == "L" else colours[..., : len(mode)]
    candidate = tmp_path / "candidate.png"
    candidate.write_bytes(saved(pixels.astype(np.uint8), "PNG", icc_profile=data))
    metric = write_metric(tmp_path / "m.onnx", threshold=0)
    (tmp_path / "reference.png").write_bytes(saved(np.zeros((256, 256, 3), np.uint8), "PNG"))
    try:
        converted = read_image(candidate, colour="srgb")
    except ValueError as error:
        reason = str(error).rpartition(": ")[2]
        code, _, _ = pe_gate(
            tmp_path / "reference.png", candidate, "--metric", metric, "--json", tmp_path / "r.json"
        )
        assert code == 2
        (result,) = json.loads((tmp_path / "r.json").read_text())["results"]
        assert result["error"] == f"the ICC profile of the candidate cannot be converted to sRGB: {reason}"
        return
    (tmp_path / "reference.png").write_bytes(saved(converted.pixels, "PNG"))
    code, _, _ = pe_gate(
        tmp_path / "reference.png", candidate, "--metric", metric, "--json", tmp_path / "r.json"
    )
    (result,) = json.loads((tmp_path / "r.json").read_text())["results"]
    assert "the colours of the candidate are converted from its ICC profile to sRGB" in result["warnings"]
    assert (code, result["score"]) == (0, 0.0)


def test_sizes_are_compared_before_pixels_are_decoded(tmp_path, run_command, pe_gate):
    small = write_image(tmp_path / "small.png", 10)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 9459, 9459, 16, 6, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(bytes(1000)))
    (tmp_path / "large.png").write_bytes(
        png(PHOTO, depth=8, colour=2)[:8] + header + pixels + chunk(b"IEND", b"")
    )
    arguments = small, tmp_path / "large.png", "--metric", write_metric(tmp_path / "m.onnx", threshold=0.1)
    (python, native), (first, second) = reports(tmp_path, run_command, pe_gate, *arguments)
    assert (native, second) == (python, first)
    (result,) = json.loads(second[0])["results"]
    assert result["error"].endswith("expected the same width and height, got 16 x 12 and 9459 x 9459")


# Files that a decoder read past the end of, or formed a pointer past: sanitizers see it, and both gates refuse them.
@pytest.mark.parametrize("name", ["mask_past_pixel.bmp", "offset_past_file.tif"])
def test_files_that_found_defects(tmp_path, run_command, pe_gate, name):
    reference = tmp_path / "reference.png"
    reference.write_bytes(saved(np.zeros((4, 4, 3), np.uint8), "PNG"))
    arguments = reference, ATTACKS / name, "--metric", write_metric(tmp_path / "m.onnx", threshold=1)
    (python, native), (first, second) = reports(tmp_path, run_command, pe_gate, *arguments)
    assert native[0] == python[0] == 2
    first, second = (shortened(json.loads(text)) for text, _ in (first, second))
    assert first == second
    assert second["results"][0]["error"] == "candidate"


# Takes the place of functions of the system and of C++, in a process that is started with it. Once the main thread has
# started another, its allocation of the number $FAIL_AT fails; asking for the umask ends the process.
PRELOADED = """
#include <dlfcn.h>
#include <pthread.h>
#include <sys/stat.h>
#include <cstdlib>
#include <new>

static const pthread_t main_thread = pthread_self();
static bool armed = false;
static int left = std::getenv("FAIL_AT") ? std::atoi(std::getenv("FAIL_AT")) : -1;

extern "C" int pthread_create(pthread_t* thread, const pthread_attr_t* attributes, void* (*run)(void*), void* data) {
    using Create = int (*)(pthread_t*, const pthread_attr_t*, void* (*)(void*), void*);
    static const auto create = reinterpret_cast<Create>(dlsym(RTLD_NEXT, "pthread_create"));
    if (pthread_equal(pthread_self(), main_thread)) armed = true;
    return create(thread, attributes, run, data);
}

extern "C" mode_t umask(mode_t) { std::abort(); }

void* operator new(std::size_t size) {
    if (armed && left >= 0 && pthread_equal(pthread_self(), main_thread) && left-- == 0) throw std::bad_alloc();
    if (void* memory = std::malloc(size)) return memory;
    throw std::bad_alloc();
}
"""


@pytest.fixture(scope="module")
def preloaded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("preloaded")
    (folder / "source.cpp").write_text(PRELOADED)
    compiler = native_build.cached(native_build.folder(), "CMAKE_CXX_COMPILER")
    native_build.run(
        compiler, "-shared", "-fPIC", "-O1", "-o", folder / "preloaded.so", folder / "source.cpp", "-ldl"
    )
    return folder / "preloaded.so"


@pytest.mark.parametrize("fail_at", [0, 1, 2, 3, 4, 6, 9, 30, 100])
def test_memory_that_ends_while_threads_run(tmp_path, program, preloaded, pe_gate, fail_at):
    for i in range(16):
        for side in ("old", "new"):
            write_image(tmp_path / side / f"{i}.png", 10)
    metric = write_metric(tmp_path / "m.onnx", threshold=0.1)
    arguments = tmp_path / "old", tmp_path / "new", "--metric", metric, "--threads", "1", "--jobs", "8"
    # Asserts that the process ends by itself.
    code, _, _ = pe_gate(*arguments, LD_PRELOAD=str(preloaded), FAIL_AT=str(fail_at))
    assert code in (0, 2)


def test_modes_of_files(tmp_path, preloaded, pe_gate):
    pair = write_image(tmp_path / "a.png", 10), write_image(tmp_path / "b.png", 20)
    arguments = (
        *pair,
        "--metric",
        write_metric(tmp_path / "m.onnx", threshold=0.1),
        "--maps",
        tmp_path / "maps",
    )
    old = os.umask(0o027)
    try:
        code, _, _ = pe_gate(*arguments, "--json", tmp_path / "report.json", LD_PRELOAD=str(preloaded))
    finally:
        os.umask(old)
    assert code == 0
    assert (tmp_path / "report.json").stat().st_mode & 0o777 == 0o640
    assert (tmp_path / "maps" / "b.png.png").stat().st_mode & 0o777 == 0o640
    assert (tmp_path / "maps").stat().st_mode & 0o777 == 0o750


def test_random_and_damaged_pairs(tmp_path, program):
    gates = {
        "python": [sys.executable, "-m", "pe_runtime", "gate"],
        "native": [program, "--onnxruntime", native_build.onnxruntime_library()],
    }
    outcome = gate_differential.run(200, 7, tmp_path, gates)
    assert outcome.differences == []
    assert min(outcome.verdicts[verdict] for verdict in ("pass", "fail", "error")) > 15
    assert outcome.warned > 15


@pytest.mark.parametrize(
    ("option", "missing", "message"),
    [
        ("PE_GATE", "CLI11", "pe_gate: not found: CLI11. scripts/system_packages.sh gets what it needs"),
        ("PE_GATE", "TIFF", "pe_gate: not found: TIFF."),
        ("PE_GATE", "ZLIB", "pe_gate: not found: ZLIB"),
        ("PE_CAPI", "nlohmann_json", "C library: nlohmann_json not found. scripts/system_packages.sh"),
    ],
)
def test_what_is_missing_is_left_out_or_an_error(tmp_path, option, missing, message):
    native_build.build("pe_c", needs="PE_CAPI_REASON")  # all that follows lacks one thing only
    headers = native_build.cached(native_build.folder(), "ONNXRUNTIME_INCLUDE_DIR")
    arguments = ["-D", f"CMAKE_DISABLE_FIND_PACKAGE_{missing}=ON", "-D", f"ONNXRUNTIME_INCLUDE_DIR={headers}"]
    arguments += ["-D", "PE_TORCH=OFF", "-D", "PE_TESTS=OFF"]
    native_build.configure(native_build.ROOT, tmp_path, *arguments)
    assert missing in native_build.cached(tmp_path, f"{option}_REASON")
    done = subprocess.run(
        [native_build.tool("cmake"), "-D", f"{option}=ON", tmp_path], capture_output=True, text=True
    )
    assert done.returncode != 0
    assert message in " ".join(done.stderr.split())
