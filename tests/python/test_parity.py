"""One table: every runtime gives the score of the definition in float64.

Runtimes by metrics by backbones by kinds of input, each at two sizes and with batches of 1 and 3; but
AOTInductor, which compiles for long, by metrics by backbones, and each of these with either kind. Scores
of float16 weights and int8 backbones, which differ by design, are tested in test_export_precision.py.
"""

import copy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import pe_runtime as pe
from pe_runtime import ort

sys.path.insert(0, str(Path(__file__).parent))
import capi
from ort_helpers import plain_session

SQUEEZENET = Path(__file__).resolve().parents[3] / "shared" / "weights" / "squeezenet1_1.safetensors"
TOLERANCE = 1e-4
# Batch, height and width. Contextual losses take time and memory by the square of height times width.
SIZES = (1, 48, 48), (3, 45, 58)
CHOSEN = pe.ChannelSet([1, 8, 20, 63, 100], [0.5, 1.0, 0.25, 2.0, 1.5])


def gabor():
    return pe.Backbone("gabor")


def squeezenet():
    if not SQUEEZENET.exists():
        pytest.skip("no folder of real weights beside the checkout")
    return pe.Backbone("squeezenet1_1", {"relu1": None, "fire3": CHOSEN}, weights=SQUEEZENET)


def vgg16():
    return pe.Backbone("vgg16", {"relu2_2": CHOSEN}, "random", seed=3)


BACKBONES = {"gabor": gabor, "squeezenet1_1": squeezenet, "vgg16": vgg16}
METRICS = {
    "distance": pe.FeatureDistance,
    "lpips": lambda backbone: pe.LPIPS(backbone, linear=None),
    "contextual": pe.ContextualLoss,
}


def in_its_order(metric, reference, distorted):
    """Arguments of the eager metric: a loss has the prediction first."""
    return (distorted, reference) if isinstance(metric, pe.ContextualLoss) else (reference, distorted)


class Case:
    """A metric, its scores by the definition, and the files that several runtimes read, each written once."""

    def __init__(self, backbone, metric, kind, folder):
        self.metric, self.kind, self.folder = METRICS[metric](BACKBONES[backbone]()), kind, folder
        self.metric.reduction = "none"
        self.pairs = [images(kind, *size) for size in SIZES]
        self.expected = [definition(self.metric, kind, *pair) for pair in self.pairs]

    def file(self, name, **options):
        path = self.folder / name
        if not path.exists():
            pe.export(self.metric, path, input=self.kind, verify=False, **options)
        return path

    def onnx(self, fused):
        return self.file(f"{fused}.onnx", fused=fused)


def torch_scorer(module):
    def score(reference, distorted):
        with torch.inference_mode():
            result = module(torch.from_numpy(reference), torch.from_numpy(distorted))
        return (result[0] if isinstance(result, tuple) else result).numpy()

    return score


def session_scorer(session):
    def score(reference, distorted):
        return session.run(["score"], {"reference": reference, "distorted": distorted})[0]

    return score


def eager(kernels):
    def make(case):
        metric = copy.deepcopy(case.metric)
        metric.kernels = kernels

        def score(reference, distorted):
            pair = (torch.from_numpy(images) for images in (reference, distorted))
            if case.kind == "uint8":
                pair = (images.permute(0, 3, 1, 2) / 255 for images in pair)
            with torch.inference_mode():
                return metric(*in_its_order(metric, *pair)).numpy()

        return score

    return make


def torchscript(fused):
    return lambda case: torch_scorer(torch.jit.load(case.file(f"{fused}.pt", fused=fused)))


def program(case):
    return torch_scorer(torch.export.load(case.file("m.pt2")).module())


def compiled(case):
    return torch_scorer(torch._inductor.aoti_load_package(str(case.file("compiled.pt2", compiled=True))))


def onnx_with_library(case):
    return session_scorer(ort.open_session(case.onnx(fused=True), threads=1, fused=True))


def onnx_alone(fused):
    return lambda case: session_scorer(plain_session(case.onnx(fused)))


def c_api(case):
    opened = capi.open_fused(case.onnx(fused=True))

    def score(reference, distorted):
        if case.kind == "float32":
            reference, distorted = (images.transpose(0, 2, 3, 1) for images in (reference, distorted))
        return np.array(
            [
                opened.score(np.ascontiguousarray(x), np.ascontiguousarray(y), with_map=False)[0]
                for x, y in zip(reference, distorted, strict=True)
            ]
        )

    return score


RUNTIMES = {
    "eager, operators": eager("native"),
    "eager, definitions": eager("reference"),
    "TorchScript, operators": torchscript(fused=True),
    "TorchScript": torchscript(fused=False),
    "torch.export": program,
    "AOTInductor": compiled,
    "ONNX, standard operators": onnx_alone(fused=False),
    "ONNX, fused operators": onnx_with_library,
    "ONNX, fused operators, no library": onnx_alone(fused=True),
    "C": c_api,
}


def images(kind, batch, height, width):
    """Smooth images, and copies with noise that grows over the batch."""
    generator = torch.Generator().manual_seed(height + batch)
    coarse = torch.rand(batch, 3, 7, 6, generator=generator)
    reference = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic").clamp(0, 1)
    noise = (
        torch.randn(reference.shape, generator=generator)
        * torch.linspace(0.02, 0.2, batch)[:, None, None, None]
    )
    pair = [(i * 255).round() for i in (reference, (reference + noise).clamp(0, 1))]
    if kind == "uint8":
        return [i.permute(0, 2, 3, 1).to(torch.uint8).contiguous().numpy() for i in pair]
    return [(i / 255).numpy() for i in pair]


def definition(metric, kind, reference, distorted):
    metric = copy.deepcopy(metric).double()
    metric.kernels = "reference"
    pair = (torch.from_numpy(i).double() for i in (reference, distorted))
    if kind == "uint8":
        pair = (i.permute(0, 3, 1, 2) / 255 for i in pair)
    with torch.inference_mode():
        return metric(*in_its_order(metric, *pair)).numpy()


def table():
    """Cases and runtimes. How a kind of input becomes floats is the same before any backbone."""
    for i, backbone in enumerate(BACKBONES):
        for j, metric in enumerate(METRICS):
            for k, kind in enumerate(("float32", "uint8")):
                for runtime in RUNTIMES:
                    if runtime != "AOTInductor" or (i + j) % 2 == k:
                        yield pytest.param(
                            (backbone, metric, kind), runtime, id=f"{backbone}-{metric}-{kind}-{runtime}"
                        )


@pytest.fixture(scope="module")
def case(request, tmp_path_factory):
    return Case(*request.param, tmp_path_factory.mktemp("case"))


# The scope keeps the runtimes of a case together.
@pytest.mark.parametrize(("case", "runtime"), list(table()), indirect=["case"], scope="module")
def test_score_is_that_of_the_definition(case, runtime):
    score = RUNTIMES[runtime](case)
    for pair, expected in zip(case.pairs, case.expected, strict=True):
        assert len(set(expected)) == len(pair[0])
        np.testing.assert_allclose(score(*pair), expected, rtol=TOLERANCE)
