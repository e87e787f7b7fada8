"""pe_gate, the gate in C++, against the gate in Python: the same reports, on the same folders."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

sys.path.insert(0, str(Path(__file__).parent))
import native_build
from gate_corpus import SIZE, coloured, jpegs, others, pngs, saved
from gate_helpers import write_metric
from pe_gate_helpers import build_pe_gate, caller, reports, shortened, write_image


@pytest.fixture(scope="module")
def program():
    return build_pe_gate()


@pytest.fixture
def pe_gate(program):
    return caller(program)


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
        "of at least 1e-30, got 1e-50",
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
