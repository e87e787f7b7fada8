"""Default device and dtype of torch, which belong to the caller: nothing here depends on them."""

import json
import warnings
from contextlib import contextmanager

import pytest
import torch

import pe_runtime as pe
from pe_runtime.backbones import list_taps
from pe_runtime.functional import (
    contextual_and_map,
    contextual_loss,
    contextual_settings,
    feature_distance,
    lpips_distance,
)
from pe_runtime.tuning import tuning_curves

pytestmark = pytest.mark.usefixtures("one_thread")
TAP = "fire3"
CHAIN = ("squeezenet1_1", {"relu1": None, TAP: pe.ChannelSet((3, 5, 60, 90), (1.0, 0.5, 2.0, 1.5))}, "random")
GABOR = ("gabor", {"scale2": pe.ChannelSet((0, 7, 30), (1.0, 0.5, 2.0)), "lowpass": pe.ChannelSet((1,))})


def values(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float32, device="cpu")


FEATURES = values(2, 8, 6, 5), values(2, 8, 6, 5, seed=1)
IMAGES = values(2, 3, 44, 48), values(2, 3, 44, 48, seed=1)
SELECTION = {"channels": [1, 6, 3], "weights": [0.5, 1.0, 2.0]}


def functions(kernels):
    source = FEATURES[0].clone().requires_grad_()
    results = [
        contextual_loss(source, FEATURES[1], **SELECTION, kernels=kernels),
        contextual_loss(source, FEATURES[1], spatial_weight=0.1, symmetric=True, kernels=kernels),
        *contextual_and_map(
            source, FEATURES[1], contextual_settings(center="batch"), [2, 4], kernels=kernels
        ),
        feature_distance(source, FEATURES[1], **SELECTION, kernels=kernels),
        lpips_distance(source, FEATURES[1], [1, 2], [0.5, 1.5], kernels=kernels),
        lpips_distance(source, FEATURES[1], linear=FEATURES[0][0, :, 0, 0], kernels=kernels),
    ]
    if kernels == "reference":
        results.append(contextual_loss(source, FEATURES[1], distance="l1", kernels=kernels))
        results.append(
            contextual_loss(source, FEATURES[1], distance="l2", spatial_weight=0.1, kernels=kernels)
        )
    return [*results, *torch.autograd.grad(sum(result.sum() for result in results), source)]


def metrics(kernels):
    chain, gabor = pe.Backbone(*CHAIN), pe.Backbone(*GABOR)
    linear = {tap: [0.5] * count for tap, count in chain.out_channels.items()}
    built = [
        pe.FeatureDistance(chain, kernels=kernels),
        pe.FeatureDistance(gabor, tap_weights={"scale2": 1.0, "lowpass": 0.5}, kernels=kernels),
        pe.LPIPS(chain, linear=linear, kernels=kernels),
        pe.LPIPS(gabor, linear=None, kernels=kernels),
        pe.ContextualLoss(chain, symmetric=True, kernels=kernels),
        pe.ContextualLoss(gabor, parity="pytorch-port", kernels=kernels),
    ]
    results = [output for metric in built for output in metric.score_and_map(*IMAGES)]
    prediction = IMAGES[0].clone().requires_grad_()
    loss = pe.TotalLoss(built[4])(prediction, IMAGES[1])
    return [*results, loss, *torch.autograd.grad(loss, prediction)]


def published():
    pytest.importorskip("lpips")
    metric = pe.LPIPS("squeeze", weights="random")
    return [metric(*IMAGES), *metric.buffers()]


def networks(folder):
    """Of every kind of weights; their features, hashes, costs and states."""
    import torchvision
    from safetensors.torch import save_file

    with torch.device("cpu"):
        model = torchvision.models.squeezenet1_1(weights=None)
    state = {name: values(*tensor.shape).sub(0.5) for name, tensor in model.state_dict().items()}
    save_file(state, folder / "weights.safetensors")
    torch.save(state, folder / "weights.pt")
    named = [("random", "squeezenet1_1", CHAIN[1]), ("random", "shufflenet_v2_x0_5", ["stage2"])]
    named.append(("default", *GABOR))
    named += [
        (w, "squeezenet1_1", [TAP]) for w in (state, folder / "weights.safetensors", folder / "weights.pt")
    ]
    results = []
    for weights, name, taps in named:
        backbone = pe.Backbone(name, taps, weights)
        results += backbone(IMAGES[0]).values()
        results.append(backbone.cost(64, 64))
        results.append(json.dumps(backbone.describe()))
        backbone.save_weights = True
        results += backbone.state_dict().values()
        pe.Backbone(name, taps, weights).load_state_dict(backbone.state_dict())
    return [*results, *map(list_taps, ("gabor", "squeezenet1_1", "shufflenet_v2_x0_5"))]


def profiles(folder):
    stimulus = pe.Stimulus(size=64, frequencies=4, orientations=3)
    network = pe.Backbone("squeezenet1_1", [TAP], "random")
    profile = pe.score_channels(network, stimulus=stimulus, progress=False)[TAP]
    profile.save(folder / "profile.safetensors")
    loaded = pe.Profile.load(folder / "profile.safetensors")

    class WithoutWeights(torch.nn.Module):
        def forward(self, images):
            return {"pixels": images}

    curves = tuning_curves(WithoutWeights(), stimulus, ["pixels"], progress=False)["pixels"]
    arrays = profile.pe, loaded.frequency_tuning, loaded.orientation_tuning, *curves
    return [loaded.top(10, weights="pe"), *map(torch.from_numpy, arrays)]


def arrays():
    from pe_runtime import arrays

    return [torch.from_dlpack(arrays.feature_distance(*FEATURES, **SELECTION))]


def exported(folder, suffix, **options):
    metric = pe.ContextualLoss(pe.Backbone(*CHAIN), symmetric=True)
    path = pe.export(metric, folder / f"metric{suffix}", map=True, **options)
    pair = IMAGES
    if options.get("input") == "uint8":
        pair = [images.mul(255).byte().permute(0, 2, 3, 1).contiguous() for images in IMAGES]
    if suffix == ".onnx":
        names = "reference", "distorted"
        feed = {name: images.numpy() for name, images in zip(names, pair, strict=True)}
        return [torch.from_numpy(output) for output in pe.open_session(path).run(None, feed)]
    with torch.device("cpu"):  # of torch's own readers
        module = torch.jit.load(path) if suffix == ".pt" else torch.export.load(path).module()
        return list(module(*pair))


CALLS = {
    "functions, native": lambda folder: functions("native"),
    "functions, reference": lambda folder: functions("reference"),
    "metrics, native": lambda folder: metrics("native"),
    "metrics, reference": lambda folder: metrics("reference"),
    "published weights": lambda folder: published(),
    "networks": networks,
    "profiles": profiles,
    "arrays": lambda folder: arrays(),
    ".onnx": lambda folder: exported(folder, ".onnx"),
    ".onnx, fused, uint8, float16": lambda folder: exported(
        folder, ".onnx", fused=True, input="uint8", precision="float16"
    ),
    ".pt": lambda folder: exported(folder, ".pt"),
    ".pt, float16": lambda folder: exported(folder, ".pt", fused=False, input="uint8", precision="float16"),
    ".pt2": lambda folder: exported(folder, ".pt2"),
    ".pt2, definitions": lambda folder: exported(folder, ".pt2", fused=False),
}


@contextmanager
def default_device():
    torch.set_default_device("meta")
    try:
        yield
    finally:
        torch.set_default_device(None)


@contextmanager
def default_dtype():
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


DEFAULTS = {
    "device": default_device,
    "device context": lambda: torch.device("meta"),
    "dtype": default_dtype,
}


@pytest.fixture(scope="module")
def usual(tmp_path_factory):
    """What the calls give where nobody has changed a default."""
    results = {}

    def of(name):
        if name not in results:
            results[name] = CALLS[name](tmp_path_factory.mktemp("usual"))
        return results[name]

    return of


@pytest.mark.parametrize(
    ("default", "name"),
    [
        *((default, name) for default in ("device", "dtype") for name in CALLS),
        ("device context", "functions, native"),
        ("device context", "metrics, reference"),
    ],
)
def test_results_do_not_depend_on_defaults(default, name, usual, tmp_path):
    expected = usual(name)
    with warnings.catch_warnings(), DEFAULTS[default]():
        warnings.filterwarnings("ignore", ".*torch.jit", DeprecationWarning)
        got = CALLS[name](tmp_path)
    assert len(got) == len(expected)
    for value, wanted in zip(got, expected, strict=True):
        if isinstance(wanted, torch.Tensor):
            assert (value.device, value.dtype) == (wanted.device, wanted.dtype)
            assert torch.equal(value, wanted)
        else:
            assert value == wanted
