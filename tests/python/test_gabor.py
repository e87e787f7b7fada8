"""The V1 model against its definition in plain NumPy, its tuning, its invariances and its exports."""

import copy
import io
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))
from ort_helpers import plain_session

from pe_runtime.backbones import gabor_filters as filters
from pe_runtime.backbones.gabor import GABOR_SCALES, GABOR_TAPS, LOWPASS, GaborNetwork, build_gabor
from pe_runtime.channels import ChannelSet

pytestmark = pytest.mark.usefixtures("one_thread")

FULL = build_gabor(dict.fromkeys(GABOR_TAPS))
EACH = filters.CHANNELS // len(filters.COLOURS)


def distance(network: GaborNetwork, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Eq. 1 per tap, averaged over the taps."""
    a, b = network(first), network(second)
    return torch.stack([(a[tap] - b[tap]).square().mean(dim=(1, 2, 3)) for tap in network.taps]).mean(dim=0)


def grating(size: int, frequency: float, degrees: float, contrast: float = 1.0, phase: float = 0.0):
    """Grey cos(2 pi f (x cos o + y sin o) - phase) around 0.5, origin at the centre pixel."""
    axis = np.arange(size) - size // 2
    y, x = np.meshgrid(axis, axis, indexing="ij")
    angle = math.radians(degrees)
    wave = np.cos(2 * math.pi * frequency * (x * math.cos(angle) + y * math.sin(angle)) - math.radians(phase))
    return torch.tensor(0.5 + 0.5 * contrast * wave, dtype=torch.float32).expand(1, 3, size, size)


def assert_close(got: np.ndarray, expected: np.ndarray, relative: float, of_largest: float) -> None:
    """Within a share of each value and a share of the largest: features of taps differ in size."""
    np.testing.assert_allclose(got, expected, rtol=relative, atol=of_largest * np.abs(expected).max())


def noise(height: int, width: int, batch: int = 1, seed: int = 0) -> torch.Tensor:
    return torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(seed))


# --- the definition, written plainly ---


def correlate(image: np.ndarray, kernel: np.ndarray, step: int = 1) -> np.ndarray:
    """Correlation at every step-th pixel, one pixel at a time; the border is repeated."""
    radii = [side // 2 for side in kernel.shape]
    padded = np.pad(image, [(radii[0], radii[0]), (radii[1], radii[1])], mode="edge")
    rows, columns = range(0, image.shape[0], step), range(0, image.shape[1], step)
    return np.array(
        [
            [(padded[i : i + kernel.shape[0], j : j + kernel.shape[1]] * kernel).sum() for j in columns]
            for i in rows
        ]
    )


def plain_gabor(wavelength: float, degrees: float, phase: float, radius: int) -> np.ndarray:
    kernel = np.empty((2 * radius + 1, 2 * radius + 1))
    envelope, wave = kernel.copy(), kernel.copy()
    for i in range(kernel.shape[0]):
        for j in range(kernel.shape[1]):
            y, x = i - radius, j - radius
            along = x * math.cos(math.radians(degrees)) + y * math.sin(math.radians(degrees))
            envelope[i, j] = math.exp(-(x * x + y * y) / (2 * (0.56 * wavelength) ** 2))
            wave[i, j] = math.cos(2 * math.pi * along / wavelength - math.radians(phase))
    kernel = envelope * (wave - (envelope * wave).sum() / envelope.sum())
    return kernel / (kernel * wave).sum()


def plain_model(image: np.ndarray) -> list[np.ndarray]:
    """All taps of one (3, H, W) float64 image, as docs/gabor.md defines them."""
    radius, wavelength = filters.KERNEL_RADIUS, filters.WAVELENGTH
    angles = [180 * index / filters.ORIENTATIONS for index in range(filters.ORIENTATIONS)]
    bank = {
        (phase, angle): plain_gabor(wavelength, angle, phase, radius) for phase in (0, 90) for angle in angles
    }
    power = sum(np.abs(np.fft.fft2(kernel, s=(64, 64))) ** 2 for kernel in bank.values())
    energy = np.roll(np.fft.ifft2(np.sqrt(power)).real, (32, 32), (0, 1))
    energy = energy[32 - radius : 33 + radius, 32 - radius : 33 + radius]
    energy = energy - energy.mean()
    axis = np.arange(-radius, radius + 1)
    y, x = np.meshgrid(axis, axis, indexing="ij")
    waves = [np.cos(2 * np.pi * (x * math.cos(a) + y * math.sin(a)) / wavelength) for a in np.radians(angles)]
    energy = energy / np.mean([(energy * wave).sum() for wave in waves])
    pool = np.exp(
        -(np.arange(-filters.POOL_RADIUS, filters.POOL_RADIUS + 1) ** 2) / (2 * filters.POOL_SIGMA**2)
    )
    pool = np.outer(pool, pool) / pool.sum() ** 2
    binomial = np.outer([1, 4, 6, 4, 1], [1, 4, 6, 4, 1]) / 256

    planes = [sum(w * plane for w, plane in zip(row, image, strict=True)) for row in filters.OPPONENT]
    taps = []
    for scale in range(filters.SCALES):
        if scale:
            planes = [correlate(plane, binomial, step=2) for plane in planes]
        channels = []
        for colour, plane in enumerate(planes):
            contrast_energy = correlate(2 * correlate(plane, energy) ** 2, pool)
            normaliser = filters.SEMI_SATURATION**2 + contrast_energy
            for phase in (0, 90, 180, 270):
                for angle in angles:
                    sign = 1 if phase < 180 else -1
                    response = np.maximum(sign * correlate(plane, bank[phase % 180, angle]), 0)
                    gain = filters.GAINS[scale][colour]
                    channels.append(gain * response / normaliser ** (filters.EXPONENT / 2))
        taps.append(np.stack(channels))
    left_over = [correlate(plane, binomial) for plane in planes]
    taps.append(np.stack([k * plane for k, plane in zip(filters.LOWPASS_GAINS, left_over, strict=True)]))
    return taps


def test_matches_the_definition_written_plainly():
    image = noise(33, 38, seed=3)
    plain = dict(zip(GABOR_TAPS, plain_model(image[0].double().numpy()), strict=True))
    double = build_gabor(dict.fromkeys(GABOR_TAPS)).double()(image.double())
    single = FULL(image)
    assert list(double) == list(single) == list(plain)
    for tap, expected in plain.items():
        # The filters are stored in float32, so eight digits cannot be asked for.
        assert_close(double[tap][0].numpy(), expected, 1e-6, 1e-6)
        assert_close(single[tap][0].numpy(), expected, 1e-4, 1e-5)


# --- filters ---


def test_filters_are_zero_mean_quadrature_pairs():
    bank = filters.quadrature_bank()
    assert bank.shape[:2] == (2, filters.ORIENTATIONS)
    np.testing.assert_allclose(bank.sum(axis=(2, 3)), 0, atol=1e-12)
    even, odd = bank
    np.testing.assert_allclose(even, even[:, ::-1, ::-1], atol=1e-12)
    np.testing.assert_allclose(odd, -odd[:, ::-1, ::-1], atol=1e-12)
    np.testing.assert_allclose((even**2).sum(axis=(1, 2)), (odd**2).sum(axis=(1, 2)), rtol=0.02)
    np.testing.assert_allclose((even * odd).sum(axis=(1, 2)), 0, atol=1e-12)


def test_energy_filter_stands_for_the_sum_over_the_bank():
    """On noise, its mean square is the bank's summed mean square, up to the one scale of its definition."""
    kernel, bank = filters.energy_filter(), filters.quadrature_bank()
    assert abs(kernel.sum()) < 1e-12
    spectrum = np.abs(np.fft.fft2(kernel, s=(64, 64))) ** 2
    power = (np.abs(np.fft.fft2(bank, s=(64, 64))) ** 2).sum(axis=(0, 1))
    assert np.corrcoef(spectrum.ravel(), power.ravel())[0, 1] > 0.99


@pytest.mark.parametrize("scale", range(filters.SCALES))
def test_responses_peak_at_the_built_frequency_and_orientation(scale):
    """Of gratings an eighth of an octave or 15 degrees apart, the four phases together prefer their own."""
    tap = GABOR_TAPS[scale]
    size = 40 * 2**scale  # what the centre pixel sees ends before the border
    octaves, turns = np.arange(-4, 5) / 8, np.arange(-45, 60, 15)
    for index in range(filters.ORIENTATIONS):
        channels = range(index, EACH, filters.ORIENTATIONS)
        label = FULL.channel_labels(tap)[index]
        assert {FULL.channel_labels(tap)[c][:2] for c in channels} == {label[:2]}
        network = build_gabor({tap: ChannelSet(channels)})

        def amplitude(frequency: float, degrees: float, network: GaborNetwork = network) -> float:
            features = network(grating(size, frequency, degrees, 0.5))[tap]
            return features[0, :, features.shape[2] // 2, features.shape[3] // 2].norm().item()

        responses = [amplitude(label.frequency, label.orientation + turn) for turn in turns]
        assert turns[int(np.argmax(responses))] == 0, label
        responses = [amplitude(label.frequency * 2**shift, label.orientation) for shift in octaves]
        assert abs(octaves[int(np.argmax(responses))]) <= 1 / 8, label


@pytest.mark.parametrize("phase", [0, 90, 180, 270])
@pytest.mark.parametrize("index", [0, 1, 4])
def test_preferred_phase(phase, index):
    """At the centre pixel, the channel labelled with a grating's phase responds most of the four phases."""
    labels = FULL.channel_labels("scale1")
    own = (phase // 90) * filters.ORIENTATIONS + index
    label = labels[own]
    assert (label.colour, label.phase) == ("luminance", phase)
    features = FULL(grating(65, label.frequency, label.orientation, 0.5, phase))["scale1"]
    responses = features[0, index : EACH : filters.ORIENTATIONS, 32, 32]
    assert int(responses.argmax()) == phase // 90


@pytest.mark.parametrize("colour", [0, 1, 2])
def test_contrast_response_follows_the_normalisation_curve(colour):
    """R(c) = g c / (s^2 + c^2)^(q/2) for the preferred grating of amplitude c: rises, then saturates."""
    label = FULL.channel_labels("scale1")[colour * EACH]
    # A direction in RGB that moves this opponent channel alone, by 1 per unit.
    direction = torch.tensor(np.linalg.inv(np.array(filters.OPPONENT))[:, colour], dtype=torch.float32)
    wave = (grating(129, label.frequency, label.orientation) - 0.5) * 2 * direction[:, None, None]
    gain, saturation = filters.GAINS[0][colour], filters.SEMI_SATURATION
    amplitudes = np.array([0.001, 0.01, 0.03, 0.1, 0.2])
    responses = np.array(
        [FULL(0.5 + float(c) * wave)["scale1"][0, colour * EACH, 64, 64].item() for c in amplitudes]
    )
    expected = gain * amplitudes / (saturation**2 + amplitudes**2) ** (filters.EXPONENT / 2)
    # The energy filter's gain is 1 on average over orientations, not at each of them.
    np.testing.assert_allclose(responses, expected, rtol=0.03)
    growth = np.diff(np.log(responses)) / np.diff(np.log(amplitudes))
    assert growth[0] > growth[-1]


def test_labels_number_every_channel_once():
    for scale, tap in enumerate(GABOR_SCALES):
        labels = FULL.channel_labels(tap)
        assert len(labels) == len(set(labels)) == FULL.full_channels[tap] == filters.CHANNELS
        assert {label.wavelength for label in labels} == {filters.WAVELENGTH * 2**scale}
        assert all(label.frequency * label.wavelength == pytest.approx(1) for label in labels)


def test_lowpass_labels_are_the_colours():
    labels = FULL.channel_labels(LOWPASS)
    assert tuple(label.colour for label in labels) == filters.COLOURS
    assert {label[1:] for label in labels} == {(None, None, math.inf, 0.0)}
    assert FULL.full_channels[LOWPASS] == len(labels)


# --- uniform images ---


def uniform(*colour: float) -> torch.Tensor:
    return torch.tensor(colour, dtype=torch.float32).view(1, 3, 1, 1).expand(1, 3, 40, 47)


@pytest.mark.parametrize("colour", [(0.0, 0.0, 0.0), (0.5, 0.5, 0.5), (1.0, 1.0, 1.0), (0.9, 0.2, 0.4)])
def test_uniform_images_give_their_colour_alone_and_finite_gradients(colour):
    image = uniform(*colour).clone().requires_grad_()
    features = FULL(image)
    # Rounding, against responses of up to filters.GAINS.
    assert all(features[tap].abs().max() < 1e-4 * np.max(filters.GAINS) for tap in GABOR_SCALES)
    expected = np.array(filters.LOWPASS_GAINS) * (np.array(filters.OPPONENT) @ colour)
    for got, value in zip(features[LOWPASS][0], expected, strict=True):
        np.testing.assert_allclose(got.detach().numpy(), value, rtol=1e-5, atol=1e-5)
    sum(f.square().mean() for f in features.values()).backward()
    assert torch.isfinite(image.grad).all()


def test_distance_of_uniform_images_is_that_of_their_colours():
    """Mean over taps and opponent colours of (gain times shift)^2: wherever the shift starts."""
    for start in ((0.0, 0.0, 0.0), (0.4, 0.1, 0.3)):
        for shift in ((0.1, 0.1, 0.1), (0.5, 0.5, 0.5), (0.1, 0.0, 0.05), (0.0, 0.01, 0.0)):
            opponent = np.array(filters.OPPONENT) @ shift
            expected = ((np.array(filters.LOWPASS_GAINS) * opponent) ** 2).mean() / len(GABOR_TAPS)
            got = distance(FULL, uniform(*start), uniform(*np.add(start, shift))).item()
            assert got == pytest.approx(expected, rel=1e-3), (start, shift)


def test_black_is_as_far_from_white_as_distances_get():
    black, white = uniform(0.0, 0.0, 0.0), uniform(1.0, 1.0, 1.0)
    assert distance(FULL, black, white).item() > 1
    assert distance(build_gabor({LOWPASS: None}), black, white).item() > 6


# --- invariances ---


def test_identical_images_are_at_distance_zero_with_finite_gradient():
    image = noise(48, 48)
    other = image.clone().requires_grad_()
    value = distance(FULL, image, other)
    assert value.item() == 0
    value.sum().backward()
    assert torch.isfinite(other.grad).all()
    assert not other.grad.any()


def test_gradcheck():
    network = build_gabor({"scale1": ChannelSet((0, 7, 13, 30, 50, 71)), LOWPASS: None}).double()
    image = noise(4, 5, seed=1).double().requires_grad_()
    other = noise(4, 5, seed=2).double()
    assert torch.autograd.gradcheck(lambda x: distance(network, other, x), (image,))


def test_a_score_does_not_depend_on_its_batch():
    images, others = noise(40, 44, batch=3), noise(40, 44, batch=3, seed=1)
    together = distance(FULL, images, others)
    alone = torch.cat([distance(FULL, images[i : i + 1], others[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=0)


def test_channels_last_images_give_the_same():
    images = noise(40, 44, batch=2)
    expected = FULL(images)
    got = FULL(images.contiguous(memory_format=torch.channels_last))
    for tap in GABOR_TAPS:
        assert_close(got[tap].numpy(), expected[tap].numpy(), 1e-5, 5e-6)


@st.composite
def selections(draw) -> dict[str, ChannelSet | None]:
    taps = draw(st.lists(st.sampled_from(GABOR_TAPS), min_size=1, max_size=3, unique=True))
    chosen: dict[str, ChannelSet | None] = {}
    for tap in taps:
        indices = draw(st.sets(st.integers(0, FULL.full_channels[tap] - 1), min_size=1, max_size=30))
        weighted = draw(st.booleans())
        # Powers of two: folding them into filters, which are float32, rounds nothing.
        powers = st.integers(-6, 3).map(lambda power: 2.0**power)
        weights = draw(st.lists(powers, min_size=len(indices), max_size=len(indices)))
        chosen[tap] = ChannelSet(sorted(indices), weights if weighted else None)
    if draw(st.booleans()):
        chosen[taps[0]] = None
    return chosen


@settings(max_examples=25, deadline=None)
@given(taps=selections(), height=st.integers(32, 50), width=st.integers(32, 50))
def test_selecting_equals_computing_all_then_selecting(taps, height, width):
    network = build_gabor(taps)
    # In double: selection is in question here, not the rounding of a channel that hardly responds.
    images = noise(height, width, batch=2).double()
    everything, selected = copy.deepcopy(FULL).double()(images), network.double()(images)
    assert list(selected) == [tap for tap in GABOR_TAPS if tap in taps] == list(network.taps)
    for tap, features in selected.items():
        expected = everything[tap]
        chosen = taps[tap]
        if chosen is not None:
            weights = torch.tensor(chosen.weights or [1.0] * len(chosen))
            expected = expected[:, list(chosen.indices)] * weights[:, None, None]
        assert network.out_channels[tap] == features.shape[1]
        assert_close(features.numpy(), expected.numpy(), 1e-9, 1e-12)
        assert network.weights_hash(tap) == FULL.weights_hash(tap)


def test_filters_of_unselected_channels_do_not_exist():
    chosen = ChannelSet(
        (0, 2 * filters.ORIENTATIONS, EACH + 3)
    )  # an on and off pair, and one chromatic filter
    network = build_gabor({"scale2": chosen})
    kernels = [
        value for name, value in network.named_buffers() if name.startswith("scales.") and "kernels" in name
    ]
    assert sum(len(kernel) for kernel in kernels) == 2
    assert len(network.scales) == 2
    assert not list(network.parameters())


def test_lowpass_alone_computes_no_filters():
    network = build_gabor({LOWPASS: ChannelSet((1,), (0.5,))})
    assert not [name for name, _ in network.named_buffers() if name.startswith("scales.")]
    assert (network.min_size, network.full_channels, network.out_channels) == (32, {LOWPASS: 3}, {LOWPASS: 1})
    images = noise(40, 50)
    torch.testing.assert_close(network(images)[LOWPASS], 0.5 * FULL(images)[LOWPASS][:, 1:2])


def test_hash_differs_between_taps():
    hashes = [FULL.weights_hash(tap) for tap in GABOR_TAPS]
    assert len(set(hashes)) == len(hashes)
    assert all(len(value) == 64 for value in hashes)


@pytest.mark.parametrize(
    ("taps", "message"),
    [
        ({}, "taps: expected some of 'scale1'.*got none"),
        ({"conv1": None}, "taps: expected some of 'scale1'.*got 'conv1'"),
        ({"scale1": ChannelSet((0, filters.CHANNELS))}, f"expected indices below {filters.CHANNELS}"),
        ({LOWPASS: ChannelSet((0, 3))}, "expected indices below 3"),
    ],
)
def test_bad_taps_are_refused(taps, message):
    with pytest.raises(ValueError, match=message):
        build_gabor(taps)


def test_unknown_tap_is_refused_by_its_queries():
    for query in (FULL.weights_hash, FULL.channel_labels):
        with pytest.raises(ValueError, match="tap: expected one of 'scale1'"):
            query("scale0")


@settings(max_examples=15, deadline=None)
@given(height=st.integers(1, 70), width=st.integers(1, 70), last=st.integers(1, len(GABOR_TAPS)))
def test_sizes(height, width, last):
    network = build_gabor(dict.fromkeys(GABOR_TAPS[:last]))
    assert network.min_size == 2 ** min(last, filters.SCALES)
    height, width = max(height, network.min_size), max(width, network.min_size)
    for number, (tap, features) in enumerate(network(noise(height, width)).items()):
        scale = min(number, filters.SCALES - 1)
        assert features.shape[2:] == (-(-height // 2**scale), -(-width // 2**scale))
        assert torch.isfinite(features).all()
        assert (features >= 0).all() or tap == LOWPASS


# --- exports ---


def test_onnx_with_dynamic_sizes_matches_eager():
    """Selected and weighted; all channels of all taps are exported in test_export.py."""
    taps = {"scale2": ChannelSet((1, 14, 40), (1, 2, 0.5)), LOWPASS: ChannelSet((0, 2), (1, 2))}
    network = build_gabor(taps).eval()
    sizes = {
        0: torch.export.Dim("batch", min=1),
        2: torch.export.Dim("height", min=32),
        3: torch.export.Dim("width", min=32),
    }
    program = torch.onnx.export(
        network, (noise(48, 56, batch=2),), dynamo=True, dynamic_shapes=(sizes,), verbose=False
    )
    stream = io.BytesIO()
    program.save(stream)
    session = plain_session(stream.getvalue())
    for shape in ((37, 51, 1), (64, 64, 3), (33, 90, 2)):
        images = noise(*shape, seed=4)
        outputs = session.run(None, {session.get_inputs()[0].name: images.numpy()})
        for got, expected in zip(outputs, network(images).values(), strict=True):
            assert_close(got, expected.numpy(), 1e-4, 1e-5)


def test_traced_network_matches_eager_at_another_size():
    traced = torch.jit.trace(FULL, noise(40, 48), strict=False)
    images = noise(53, 61, batch=2)
    expected = FULL(images)
    for tap, features in traced(images).items():
        assert_close(features.numpy(), expected[tap].numpy(), 1e-5, 5e-6)
