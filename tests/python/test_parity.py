"""One table: every runtime gives the score of the definition in float64.

Runtimes by metrics by backbones by kinds of input, each at two sizes and with batches of 1 and 3. Scores of
float16 weights and int8 backbones, which differ by design, are tested in test_export_precision.py.
"""

import copy
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

import pe_runtime as pe
from pe_runtime import ort

sys.path.insert(0, str(Path(__file__).parent))
import capi

SQUEEZENET = Path(__file__).resolve().parents[3] / "shared" / "weights" / "squeezenet1_1.safetensors"
TOLERANCE = 1e-4
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


def torch_scorer(module, kind):
    def score(reference, distorted):
        with torch.inference_mode():
            result = module(torch.from_numpy(reference), torch.from_numpy(distorted))
        return (result[0] if isinstance(result, tuple) else result).numpy()

    return score


def eager(kernels):
    def make(metric, folder, kind):
        metric = copy.deepcopy(metric)
        metric.kernels = kernels

        def score(reference, distorted):
            pair = (torch.from_numpy(images) for images in (reference, distorted))
            if kind == "uint8":
                pair = (images.permute(0, 3, 1, 2) / 255 for images in pair)
            with torch.inference_mode():
                return metric(*in_its_order(metric, *pair)).numpy()

        return score

    return make


def torchscript(fused):
    def make(metric, folder, kind):
        file = pe.export(metric, folder / "m.pt", input=kind, fused=fused, verify=False)
        return torch_scorer(torch.jit.load(file), kind)

    return make


def program(metric, folder, kind):
    file = pe.export(metric, folder / "m.pt2", input=kind, verify=False)
    return torch_scorer(torch.export.load(file).module(), kind)


def compiled(metric, folder, kind):
    file = pe.export(metric, folder / "m.pt2", input=kind, compiled=True, verify=False)
    return torch_scorer(torch._inductor.aoti_load_package(str(file)), kind)


def onnx(fused, library):
    def make(metric, folder, kind):
        file = pe.export(metric, folder / "m.onnx", input=kind, fused=fused, verify=False)
        if library:
            session = ort.open_session(file, threads=1, fused=True)
        else:
            session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])

        def score(reference, distorted):
            return session.run(["score"], {"reference": reference, "distorted": distorted})[0]

        return score

    return make


def c_api(metric, folder, kind):
    file = pe.export(metric, folder / "m.onnx", input=kind, fused=True, verify=False)
    opened = capi.open_fused(file)

    def score(reference, distorted):
        if kind == "float32":
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
    "ONNX, standard operators": onnx(fused=False, library=False),
    "ONNX, fused operators": onnx(fused=True, library=True),
    "ONNX, fused operators, no library": onnx(fused=True, library=False),
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


@pytest.mark.parametrize("kind", ["float32", "uint8"])
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_score_is_that_of_the_definition(tmp_path, runtime, backbone, metric, kind):
    built = METRICS[metric](BACKBONES[backbone]())
    built.reduction = "none"
    score = RUNTIMES[runtime](built, tmp_path, kind)
    for batch, height, width in ((1, 64, 64), (3, 75, 98)):
        pair = images(kind, batch, height, width)
        expected = definition(built, kind, *pair)
        assert len(set(expected)) == batch
        np.testing.assert_allclose(score(*pair), expected, rtol=TOLERANCE)
