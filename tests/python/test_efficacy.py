"""mu1, mu2 and PE against hand-computed values, and tuning curves against networks of known truth."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

import pe_runtime as pe
from pe_runtime.efficacy import (
    TuningCurves,
    frequency_sensitivity,
    gain_normalised,
    orientation_selectivity,
    perceptual_efficacy,
)
from pe_runtime.stimuli import Stimulus, contrast_sensitivity
from pe_runtime.tuning import tuning_curves

PIXELS_PER_DEGREE = 32.0
RADIUS = 24


def test_mu1_by_hand():
    frequencies = np.array([2.0, 4.0, 6.0])
    tuning = np.array([[1.0, 3.0, 4.0], [5.0, 5.0, 5.0]])
    # One-sided slopes at the ends: 1 and 0.5; central in the middle: 0.75.
    csf = contrast_sensitivity(frequencies)
    expected = csf[0] * 1.0 + csf[1] * 0.75 + csf[2] * 0.5
    np.testing.assert_allclose(frequency_sensitivity(tuning, frequencies), [expected, 0.0], rtol=1e-14)


def test_mu2_by_hand():
    tuning = np.array([[1.0, 4.0, 2.0], [-3.0, -3.0, -1.0], [7.0, 7.0, 7.0]])
    np.testing.assert_allclose(orientation_selectivity(tuning), [9 + 4, 4 + 4, 0])


def test_pe_by_hand():
    pe_scores = perceptual_efficacy(np.array([1.0, 3.0]), np.array([2.0, 6.0]))
    np.testing.assert_allclose(pe_scores, [2 / 32, 18 / 32])


@pytest.mark.parametrize(("mu1", "mu2"), [([0.0, 0.0], [1.0, 2.0]), ([1.0, 0.0], [0.0, 0.0])])
def test_pe_without_any_tuning_is_zero_and_not_nan(mu1, mu2):
    np.testing.assert_array_equal(perceptual_efficacy(np.array(mu1), np.array(mu2)), [0, 0])


@given(st.floats(1e-3, 1e3), st.integers(0, 2**31))
def test_gain_scales_pe_by_its_cube_and_the_normalised_scores_not_at_all(gain, seed):
    rng = np.random.default_rng(seed)
    frequencies = np.linspace(1, 10, 7)
    curves = TuningCurves(rng.random((3, 7)), rng.random((3, 5)))
    scales = np.array([[gain], [1.0], [1.0]])
    louder = TuningCurves(curves.frequency * scales, curves.orientation * scales)
    unnormalised = [
        frequency_sensitivity(c.frequency, frequencies) * orientation_selectivity(c.orientation)
        for c in (curves, louder)
    ]
    np.testing.assert_allclose(unnormalised[1] / unnormalised[0], [gain**3, 1, 1], rtol=1e-9)
    for before, after in zip(gain_normalised(curves), gain_normalised(louder), strict=True):
        np.testing.assert_allclose(after, before, rtol=1e-12)
        assert np.abs(after).max() <= 1


def test_gain_normalisation_leaves_silent_channels_at_zero():
    curves = gain_normalised(TuningCurves(np.zeros((2, 4)), np.zeros((2, 3))))
    assert not curves.frequency.any()
    assert not curves.orientation.any()


class GaborFilters(torch.nn.Module):
    """Rectified Gabor filters of known frequency (cycles per degree) and orientation (radians), float64.

    Isotropic envelopes of `width` wavelengths; unit amplitude response at the preferred grating.
    """

    def __init__(self, frequencies, orientations, width=0.56):
        super().__init__()
        self.truth = list(zip(frequencies, orientations, strict=True))
        self.width = width
        filters = []
        for frequency, theta in self.truth:
            wavelength = PIXELS_PER_DEGREE / frequency
            sigma = width * wavelength
            along = torch.arange(-RADIUS, RADIUS + 1, dtype=torch.float64)
            y, x = torch.meshgrid(along, along, indexing="ij")
            envelope = torch.exp(-(x**2 + y**2) / (2 * sigma**2))
            phase = 2 * math.pi / wavelength * (x * math.cos(theta) + y * math.sin(theta))
            kernel = envelope * torch.sin(phase)
            filters.append(kernel / (kernel * torch.sin(phase)).sum())
        self.register_buffer("kernels", torch.stack(filters)[:, None])

    def forward(self, images):
        """Correlation by FFT, cropped to where the kernel lies inside the image."""
        grey = images.mean(dim=1, keepdim=True)
        size = grey.shape[-2:]
        spectrum = torch.fft.rfft2(grey) * torch.fft.rfft2(self.kernels[:, 0], s=size).conj()
        responses = torch.fft.irfft2(spectrum, s=size)[..., : -2 * RADIUS, : -2 * RADIUS]
        return {"relu": F.relu(responses)}

    def amplitude(self, channel, frequency, theta):
        """Analytic response to a unit grating: difference of two Gaussians in the frequency plane."""
        own, preferred = self.truth[channel]
        sigma = self.width / own
        u = frequency * np.cos(theta) - own * np.cos(preferred)
        v = frequency * np.sin(theta) - own * np.sin(preferred)
        u2 = frequency * np.cos(theta) + own * np.cos(preferred)
        v2 = frequency * np.sin(theta) + own * np.sin(preferred)
        lobe = np.exp(-2 * (np.pi * sigma) ** 2 * (u**2 + v**2))
        mirror = np.exp(-2 * (np.pi * sigma) ** 2 * (u2**2 + v2**2))
        at_peak = 1 - np.exp(-2 * (np.pi * sigma) ** 2 * (2 * own) ** 2)
        return np.abs(lobe - mirror) / at_peak


STIMULUS = Stimulus(size=240, frequencies=40, orientations=24, pixels_per_degree=PIXELS_PER_DEGREE)


@pytest.fixture(scope="module")
def known():
    frequencies = [3.0, 5.0, 7.89, 7.89, 7.89, 11.0, 5.0]
    orientations = np.deg2rad([0, 30, 0, 90, 135, 60, 0])
    network = GaborFilters(frequencies, orientations)
    return network, tuning_curves(network, STIMULUS, ["relu"], progress=False)["relu"]


def test_known_filters_peak_at_their_orientation(known):
    network, curves = known
    grid = STIMULUS.orientation_grid()
    for channel, (_, theta) in enumerate(network.truth):
        assert grid[curves.orientation[channel].argmax()] == pytest.approx(theta, abs=1e-9)


def test_known_filters_peak_at_their_frequency(known):
    network, curves = known
    grid = STIMULUS.frequency_grid()
    for channel, (frequency, _) in enumerate(network.truth):
        theta = np.linspace(0, np.pi, 721)
        fine = np.linspace(0.5, 15, 2901)
        response = network.amplitude(channel, fine[:, None], theta).mean(axis=1)
        peak = fine[response.argmax()]
        assert peak == pytest.approx(frequency, rel=0.1)
        assert grid[curves.frequency[channel].argmax()] == pytest.approx(peak, abs=1.1 * (grid[1] - grid[0]))


def test_orientation_tuning_equals_its_closed_form(known):
    """A rectified sinusoid of amplitude A averages to A / pi; the gratings have amplitude 1/2."""
    network, curves = known
    for channel in range(len(network.truth)):
        amplitude = network.amplitude(channel, STIMULUS.grating_frequency(), STIMULUS.orientation_grid())
        np.testing.assert_allclose(curves.orientation[channel], amplitude / (2 * np.pi), atol=0.004)


def test_mu1_follows_the_csf(known):
    """mu1 is what theory gives, and of self-similar filters of one orientation its order is the CSF's."""
    network, curves = known
    grid = STIMULUS.frequency_grid()
    mu1 = frequency_sensitivity(curves.frequency, grid)
    # Far from its centre a radial grating has, at every position, the orientation of that position.
    along = np.arange(-(STIMULUS.size / 2 - RADIUS), STIMULUS.size / 2 - RADIUS, 4) + 0.5
    local = np.arctan2(along[:, None], along).ravel()
    channels = range(len(network.truth))
    analytic = [network.amplitude(c, grid[:, None], local).mean(axis=1) / (2 * np.pi) for c in channels]
    np.testing.assert_allclose(mu1, frequency_sensitivity(np.stack(analytic), grid), rtol=0.05)
    upright = [c for c in channels if network.truth[c][1] == 0]
    favoured = contrast_sensitivity([network.truth[c][0] for c in upright])
    np.testing.assert_array_equal(np.argsort(mu1[upright]), np.argsort(favoured))


def test_mu2_grows_with_orientation_selectivity():
    """At equal peaks, the longer the envelope, the narrower the tuning and the larger mu2."""
    mu2 = []
    for width in (0.3, 0.5, 0.8, 1.2):
        network = GaborFilters([7.89], [np.deg2rad(45)], width)
        curves = tuning_curves(network, STIMULUS, ["relu"], progress=False)["relu"]
        mu2.append(float(orientation_selectivity(curves.orientation)[0]))
        amplitude = network.amplitude(0, STIMULUS.grating_frequency(), STIMULUS.orientation_grid())
        expected = orientation_selectivity(amplitude[None] / (2 * np.pi))[0]
        assert mu2[-1] == pytest.approx(expected, rel=0.05)
    assert mu2 == sorted(mu2)


def test_batches_do_not_matter(known):
    network, curves = known
    odd = tuning_curves(network, STIMULUS, ["relu"], batch_size=7, progress=True)["relu"]
    np.testing.assert_allclose(odd.frequency, curves.frequency, rtol=1e-12)
    np.testing.assert_allclose(odd.orientation, curves.orientation, rtol=1e-12)


def test_activations_that_are_not_finite_are_refused():
    class Broken(torch.nn.Module):
        def forward(self, images):
            return {"relu": images / 0}

    with pytest.raises(ValueError, match="network: expected finite activations at tap 'relu'"):
        tuning_curves(Broken(), Stimulus(size=16), ["relu"], progress=False)


SMALL = Stimulus(size=64, frequencies=8, orientations=6)


@settings(deadline=None, max_examples=3)
@given(st.sampled_from([torch.float32, torch.float64]), st.integers(1, 20))
def test_score_channels_leaves_the_backbone_as_it_was(dtype, batch_size):
    backbone = pe.Backbone("squeezenet1_1", ["fire2", "fire3"], "random")
    before = {name: value.clone() for name, value in backbone.network.state_dict().items()}
    profiles = pe.score_channels(backbone, stimulus=SMALL, dtype=dtype, batch_size=batch_size, progress=False)
    assert list(profiles) == ["fire2", "fire3"]
    for tap, profile in profiles.items():
        assert len(profile) == backbone.full_channels[tap]
        assert profile.weights_hash == backbone.weights_hash(tap)
    for name, value in backbone.network.state_dict().items():
        assert value.dtype == torch.float32
        assert torch.equal(value, before[name])


def test_float32_and_float64_agree():
    backbone = pe.Backbone("squeezenet1_1", ["fire3"], "random")
    single, double = (
        pe.score_channels(backbone, stimulus=SMALL, dtype=dtype, progress=False)["fire3"]
        for dtype in (torch.float32, torch.float64)
    )
    np.testing.assert_allclose(single.frequency_tuning, double.frequency_tuning, rtol=1e-4, atol=1e-5)
    assert (single.dtype, double.dtype) == ("float32", "float64")


def test_bad_arguments_of_score_channels():
    backbone = pe.Backbone("squeezenet1_1", ["fire2"], "random")
    with pytest.raises(ValueError, match="taps: expected some of fire2, got 'fire3'"):
        pe.score_channels(backbone, ["fire3"], SMALL)
    with pytest.raises(ValueError, match=r"dtype: expected torch\.float32 or torch\.float64"):
        pe.score_channels(backbone, stimulus=SMALL, dtype=torch.float16)
    with pytest.raises(ValueError, match="stimulus: expected a size of at least"):
        pe.score_channels(backbone, stimulus=Stimulus(size=4, frequencies=3))
    with pytest.raises(ValueError, match="batch_size: expected at least 1"):
        pe.score_channels(backbone, stimulus=SMALL, batch_size=0)
    selected = pe.Backbone("squeezenet1_1", {"fire2": pe.ChannelSet([0, 1])}, "random")
    with pytest.raises(ValueError, match="expected all channels at tap 'fire2'"):
        pe.score_channels(selected, stimulus=SMALL)


def test_published_weights_concentrate_pe(shared):
    """ImageNet SqueezeNet 1.1: shares and zeros that an independent implementation measured."""
    backbone = pe.Backbone(
        "squeezenet1_1", ["fire3", "fire9"], shared / "weights" / "squeezenet1_1.safetensors"
    )
    profiles = pe.score_channels(backbone, progress=False)
    fire3, fire9 = profiles["fire3"], profiles["fire9"]
    share = fire3.pe[list(fire3.top(10).indices)].sum() / fire3.pe.sum()
    assert 0.57 <= share <= 0.99
    assert int((fire9.pe == 0).sum()) == 272
    # So many channels score 0 that L-10 and L-50 are one set.
    assert fire9.bottom(10).indices == fire9.bottom(50).indices
