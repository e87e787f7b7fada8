"""What pe_gate judges, refuses and survives, beside the gate in Python: the rules that a pass hangs on."""

import json
import os
import struct
import sys
import zlib
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

sys.path.insert(0, str(Path(__file__).parent))
import gate_differential
import native_build
from gate_corpus import PHOTO, saved
from gate_helpers import chunk, write_metric
from gate_profiles import profiles
from pe_gate_helpers import build_pe_gate, caller, reports, shortened, write_image

from pe_runtime.gate import read_image

ATTACKS = Path(__file__).resolve().parents[1] / "attacks"


@pytest.fixture(scope="module")
def program():
    return build_pe_gate()


@pytest.fixture
def pe_gate(program):
    return caller(program)


NO_NUMBERS = [
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
]


@pytest.mark.parametrize("text", NO_NUMBERS)
def test_spellings_that_are_no_threshold(tmp_path, run_command, pe_gate, text):
    pair = write_image(tmp_path / "a.png", 10), write_image(tmp_path / "b.png", 20)
    metric = write_metric(tmp_path / "m.onnx", threshold=0.1)
    (python, native), (first, second) = reports(
        tmp_path, run_command, pe_gate, *pair, "--metric", metric, "--threshold", text
    )
    assert (native, second) == (python, first)
    assert native[0] == 2
    assert json.loads(second[0])["error"] == f"threshold: expected a finite number >= 0, got {text}"


NUMBERS = ["1", "+1", "01.", ".5", "5E-1", "1e+2", "1e-400", "0.1000000000000000055511151231"]


@pytest.mark.parametrize("text", NUMBERS)
def test_spellings_of_thresholds(tmp_path, run_command, pe_gate, text):
    pair = write_image(tmp_path / "a.png", 10), write_image(tmp_path / "b.png", 10)
    metric = write_metric(tmp_path / "m.onnx")
    (python, native), (first, second) = reports(
        tmp_path, run_command, pe_gate, *pair, "--metric", metric, "--threshold", text
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
        "webp.bin": saved(image, "WEBP"),
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


# Shell patterns, one option each.
IGNORED = {
    "some": "*.gif *.[!tp]* fifo* broken",
    "all that cannot be judged": "*.[!p]* b* no* B* empty fifo* deep/* w*",
    "lengths": "?????.* deep* [^n]*",
    "sets": "[[]a]* []a-c[]* [!] [z-a]* [a-",
    "paths": "DEEP/* \\* */picture* *o*o*",
    "everything": "*",
}
UNUSUAL_OPTIONS = {
    "": [],
    "strict": ["--strict"],
    "stems": ["--match-stem"],
    **{name: [f"--ignore={pattern}" for pattern in patterns.split()] for name, patterns in IGNORED.items()},
    "strict, some": ["--strict", "--ignore=*.[!tp]*"],
}


@pytest.mark.parametrize("name", UNUSUAL_OPTIONS)
def test_files_that_cannot_be_judged(tmp_path, unusual, run_command, pe_gate, name):
    metric = write_metric(tmp_path / "m.onnx", threshold=0.1)
    (python, native), (first, second) = reports(
        tmp_path, run_command, pe_gate, *unusual, "--metric", metric, *UNUSUAL_OPTIONS[name]
    )
    assert second == first
    assert native == python
    assert native[0] == (0 if name in ("some", "all that cannot be judged") else 2)


def test_strict_pairs(tmp_path, run_command, pe_gate):
    for side in ("old", "new"):
        write_image(tmp_path / side / "same.png", 10)
        write_image(tmp_path / side / "alpha.png", 10)
        (tmp_path / side / "notes.txt").write_text("no image")
        (tmp_path / side / ".hidden").write_text("no image")
    write_image(tmp_path / "new" / "extra.png", 10)
    PIL.Image.new("RGBA", (16, 12), (10, 5, 245, 255)).save(tmp_path / "old" / "alpha.png")
    sides = tmp_path / "old", tmp_path / "new"
    metric = write_metric(tmp_path / "m.onnx", threshold=0.1)
    (python, native), (first, second) = reports(
        tmp_path, run_command, pe_gate, *sides, "--metric", metric, "--strict", "--allow-extra"
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
    assert shown[0, 0].tolist() != [0x44, 0x01, 0x54]


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
    arguments = tmp_path / "reference.png", candidate, "--metric", metric, "--json", tmp_path / "r.json"
    (tmp_path / "reference.png").write_bytes(saved(np.zeros((256, 256, 3), np.uint8), "PNG"))
    try:
        converted = read_image(candidate, colour="srgb")
    except ValueError as error:
        reason = str(error).rpartition(": ")[2]
        code, _, _ = pe_gate(*arguments)
        assert code == 2
        (result,) = json.loads((tmp_path / "r.json").read_text())["results"]
        assert result["error"] == f"the ICC profile of the candidate cannot be converted to sRGB: {reason}"
        return
    (tmp_path / "reference.png").write_bytes(saved(converted.pixels, "PNG"))
    code, _, _ = pe_gate(*arguments)
    (result,) = json.loads((tmp_path / "r.json").read_text())["results"]
    assert "the colours of the candidate are converted from its ICC profile to sRGB" in result["warnings"]
    assert (code, result["score"]) == (0, 0.0)


def test_sizes_are_compared_before_pixels_are_decoded(tmp_path, run_command, pe_gate):
    small = write_image(tmp_path / "small.png", 10)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 9459, 9459, 16, 6, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(bytes(1000)))
    large = gate_differential.SIGNATURE + header + pixels + chunk(b"IEND", b"")
    (tmp_path / "large.png").write_bytes(large)
    arguments = small, tmp_path / "large.png", "--metric", write_metric(tmp_path / "m.onnx", threshold=0.1)
    (python, native), (first, second) = reports(tmp_path, run_command, pe_gate, *arguments)
    assert (native, second) == (python, first)
    (result,) = json.loads(second[0])["results"]
    assert result["error"].endswith("expected the same width and height, got 16 x 12 and 9459 x 9459")


# A decoder read past the end of these, or formed a pointer past it, which sanitizers see.
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


# Takes the place of functions of the system and of C++, in a process that is started with it. Once pe_gate
# has started a thread, allocation number $FAIL_AT of the main thread fails; asking for the umask ends all.
PRELOADED = """
#include <dlfcn.h>
#include <pthread.h>
#include <sys/stat.h>
#include <cstdlib>
#include <cstring>
#include <new>

static const pthread_t main_thread = pthread_self();
static bool armed = false;
static int left = std::getenv("FAIL_AT") ? std::atoi(std::getenv("FAIL_AT")) : -1;

extern "C" int pthread_create(pthread_t* thread, const pthread_attr_t* how, void* (*run)(void*), void* data) {
    using Create = int (*)(pthread_t*, const pthread_attr_t*, void* (*)(void*), void*);
    static const auto create = reinterpret_cast<Create>(dlsym(RTLD_NEXT, "pthread_create"));
    // What std::thread passes begins with the address of a table in the binary that started the thread.
    Dl_info starter;
    const bool known = run != nullptr && dladdr(*static_cast<void**>(data), &starter) != 0;
    if (known && std::strstr(starter.dli_fname, "pe_gate") != nullptr) armed = true;
    return create(thread, how, run, data);
}

extern "C" mode_t umask(mode_t) { std::abort(); }

void* operator new(std::size_t size) {
    const bool main = pthread_equal(pthread_self(), main_thread);
    if (armed && main && left >= 0 && left-- == 0) throw std::bad_alloc();
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


@pytest.mark.parametrize("fail_at", [*range(10), 15, 20])
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
    metric = write_metric(tmp_path / "m.onnx", threshold=0.1)
    arguments = *pair, "--metric", metric, "--maps", tmp_path / "maps", "--json", tmp_path / "report.json"
    old = os.umask(0o027)
    try:
        code, _, _ = pe_gate(*arguments, LD_PRELOAD=str(preloaded))
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
