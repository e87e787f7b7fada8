"""The examples in C, C++ and on libtorch, built against an installed pe_runtime; that of training."""

import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

sys.path.insert(0, str(Path(__file__).parent))
import capi
import native_build

import pe_runtime as pe
from pe_runtime.gate import Judge

EXAMPLES = native_build.ROOT / "examples"
# What is compiled matters, not how fast it runs.
QUICK = ("-D", "CMAKE_C_FLAGS=-O1", "-D", "CMAKE_CXX_FLAGS=-O1")


@pytest.fixture(scope="session")
def prefix(tmp_path_factory):
    """Where pe_runtime is installed for C and C++."""
    targets = ["pe_kernels", "pe_c"]
    folder = native_build.build(*targets, needs="PE_CAPI_REASON")
    names = (folder / "build.ninja").read_text()
    further = [name for name in ("pe_torch", "pe_ort", "pe_gate") if f"build {name}:" in names]
    native_build.build(*targets, *further, needs="PE_CAPI_REASON")
    path = tmp_path_factory.mktemp("install")
    native_build.run(
        native_build.tool("cmake"), "--install", folder, "--prefix", path, "--component", "development"
    )
    return path


@pytest.fixture(scope="session")
def images(tmp_path_factory):
    """Two photographs as PPM files, and as arrays."""
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(8)
    first = np.asarray(PIL.Image.fromarray(rng.integers(0, 256, (9, 12, 3), dtype=np.uint8)).resize((64, 48)))
    second = np.clip(first.astype(int) + rng.integers(-20, 20, first.shape), 0, 255).astype(np.uint8)
    paths = [folder / "reference.ppm", folder / "distorted.ppm"]
    for path, array in zip(paths, (first, second), strict=True):
        PIL.Image.fromarray(array).save(path)
    return *paths, first, second


def built(name, folder, prefix, *options):
    build = folder / name
    search = os.pathsep.join([str(prefix), *options]).replace(os.pathsep, ";")
    native_build.configure(EXAMPLES / name, build, "-D", f"CMAKE_PREFIX_PATH={search}", *QUICK)
    native_build.run(native_build.tool("cmake"), "--build", build)
    return build


@pytest.fixture(scope="module")
def c_examples(prefix, tmp_path_factory):
    if shutil.which("cc") is None:
        pytest.skip("no C compiler")
    return built("c_api", tmp_path_factory.mktemp("examples"), prefix)


def started(*command):
    return subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PE_RUNTIME_ONNXRUNTIME": str(native_build.onnxruntime_library())},
    )


@pytest.fixture(scope="module")
def metric(tmp_path_factory):
    path = tmp_path_factory.mktemp("metric") / "metric.onnx"
    return pe.export(pe.FeatureDistance(pe.Backbone("gabor")), path, map=True, threshold=0.1, verify=False)


def test_c(c_examples, metric, images):
    reference, distorted, *arrays = images
    verdict = Judge(metric).score(*arrays)
    done = started(c_examples / "score", metric, reference, distorted)
    score, text = done.stdout.splitlines()
    assert float(score) == pytest.approx(verdict.score, rel=1e-6)
    assert text == f"{'pass' if verdict.passed else 'fail'}: the threshold is 0.1"
    assert done.returncode == (0 if verdict.passed else 1)
    done = started(c_examples / "score", metric, reference, reference)
    assert (done.returncode, done.stdout) == (0, "0\npass: the threshold is 0.1\n")
    done = started(c_examples / "score", reference, reference, distorted)
    assert done.returncode == 2
    assert "expected a valid ONNX file" in done.stderr


def test_cpp(c_examples, metric, images, tmp_path):
    reference, distorted, *arrays = images
    verdict = Judge(metric, maps=True).score(*arrays)
    done = started(c_examples / "score_and_map", metric, reference, distorted, tmp_path / "map.pgm")
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) == pytest.approx(verdict.score, rel=1e-6)
    written = np.asarray(PIL.Image.open(tmp_path / "map.pgm"), dtype=np.float64)
    np.testing.assert_allclose(written / 255, verdict.map / verdict.map.max(), atol=1 / 250)
    done = started(c_examples / "score_and_map", metric, reference, tmp_path / "none.ppm", tmp_path / "x.pgm")
    assert done.returncode == 2
    assert "expected a binary PPM" in done.stderr


def cuda_toolkit():
    """The folder of nvcc's toolkit, also where nvcc on the path is a script that calls it."""
    if shutil.which("nvcc") is None:
        pytest.skip("torch is built with CUDA, for which its CMake files need nvcc")
    run = subprocess.run(["nvcc", "--dryrun", "-x", "cu", "-c", "/dev/null"], capture_output=True, text=True)
    (top,) = re.findall(r"^#\$ TOP=(.*)$", run.stderr, re.MULTILINE)
    return Path(top.strip()).resolve()


def test_libtorch(prefix, images, tmp_path):
    import torch

    if not list(prefix.rglob("libpe_runtime_torch.so")):
        pytest.skip("the native build has no operators for torch")
    reference, distorted, *_ = images
    options = []
    if torch.version.cuda is not None:
        # Such a build is found only where the toolkit is; an architecture keeps it from asking the GPU.
        options = ["-D", "TORCH_CUDA_ARCH_LIST=9.0", "-D", f"CUDA_TOOLKIT_ROOT_DIR={cuda_toolkit()}"]
    build = tmp_path / "build"
    search = f"{prefix};{torch.utils.cmake_prefix_path}"
    native_build.configure(
        EXAMPLES / "libtorch", build, "-D", f"CMAKE_PREFIX_PATH={search}", *QUICK, *options
    )
    native_build.run(native_build.tool("cmake"), "--build", build)
    metric = pe.FeatureDistance(pe.Backbone("gabor"))
    pe.export(metric, tmp_path / "metric.pt", verify=False)
    done = started(build / "score", tmp_path / "metric.pt", reference, distorted)
    assert done.returncode == 0, done.stderr
    tensors = [
        torch.from_numpy(np.array(PIL.Image.open(path))).permute(2, 0, 1)[None] / 255
        for path in (reference, distorted)
    ]
    assert float(done.stdout) == pytest.approx(metric(*tensors).item(), rel=1e-4)
    assert started(build / "score", reference, reference, distorted).returncode == 2


def test_what_is_installed_finds_its_parts(prefix, metric, images, tmp_path):
    (library,) = prefix.glob("lib*/**/libpe_runtime.so")
    if not (library.parent / "libpe_runtime_ort.so").exists():
        pytest.skip("the native build has no operators for ONNX Runtime")
    path = tmp_path / "fused.onnx"
    pe.export(pe.ContextualLoss(pe.Backbone("gabor", taps=["scale3"])), path, fused=True, verify=False)
    onnxruntime = native_build.onnxruntime_library()
    capi.Metric(capi.Library(library), path, onnxruntime, operators=1).close()
    program = prefix / "bin" / "pe_gate"
    if program.exists():
        for image in images[:2]:
            PIL.Image.open(image).save(tmp_path / f"{image.stem}.png")
        pair = tmp_path / "reference.png", tmp_path / "distorted.png"
        done = started(program, *pair, "--metric", path, "--threshold", "100")
        assert done.returncode == 0, done.stderr


@pytest.fixture
def photographs(tmp_path):
    """A folder of three, and a file that is none."""
    rng = np.random.default_rng(9)
    for name in "abc":
        coarse = PIL.Image.fromarray(rng.integers(0, 256, (12, 14, 3), dtype=np.uint8))
        coarse.resize((71, 64), PIL.Image.Resampling.BICUBIC).save(tmp_path / f"{name}.png")
    (tmp_path / "notes.txt").write_text("not a photograph")
    return tmp_path


@pytest.fixture
def train(monkeypatch, capsys):
    """The command line of training: exit status, standard output and error."""
    program = runpy.run_path(str(EXAMPLES / "training" / "train_sr.py"))

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["train_sr.py", *map(str, arguments)])
        try:
            code = program["main"]()
        except SystemExit as error:
            code = error.code
        return code, *capsys.readouterr()

    return call


def test_training_with_the_definition_and_with_the_kernels(train, photographs, tmp_path):
    from safetensors.torch import load_file

    output = tmp_path / "output"
    common = "--images", photographs, "--steps", 3, "--patch", 32, "--batch", 2
    code, out, err = train(*common, "--output", output)
    assert code == 0, err
    rows = [line.split("│")[1:-1] for line in out.splitlines() if line.startswith("│")]
    bicubic, eager, kernels = ([cell.strip() for cell in row] for row in rows)
    assert (bicubic[0], eager[0], kernels[0]) == ("(bicubic)", "eager definition", "kernels")
    # Both start from the same weights and patches.
    assert float(kernels[4]) == pytest.approx(float(eager[4]), rel=1e-4)
    names = [f"{kind}-{run}" for run in ("reference", "native") for kind in ("before-after", "weights")]
    assert sorted(path.stem for path in output.iterdir()) == sorted(names)
    assert len(load_file(output / "weights-native.safetensors")) == 6
    # The middle three times beside each other, pixels doubled.
    assert PIL.Image.open(output / "before-after-native.png").size == (3 * 2 * 64, 2 * 64)

    assert train(*common, "--output", tmp_path / "again", "--kernels", "native")[0] == 0
    files = [folder / "weights-native.safetensors" for folder in (output, tmp_path / "again")]
    assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--patch", 33), "--patch: expected an even number from 16, got 33"),
        (("--steps", 0), "--steps: expected at least 1, got 0"),
        (("--device", "abacus"), "--device: expected cpu, cuda or cuda:NUMBER, got abacus"),
        (("--kernels", "native", "--compare"), "--compare: expected no --kernels beside it"),
        (("--patch", 96), "--images: expected two photographs of 96 pixels or more"),
    ],
)
def test_training_refuses_what_it_cannot_do(train, photographs, arguments, message):
    code, _, err = train("--images", photographs, *arguments)
    assert (code, message in err) == (2, True), err
