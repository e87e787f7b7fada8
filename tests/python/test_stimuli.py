"""Gratings and the contrast sensitivity function against closed forms."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pe_runtime.stimuli import Stimulus, contrast_sensitivity, csf_peak


def test_csf_is_mannos_and_sakrison():
    # 2.6 (0.0192 + 0.114 * 8) exp(-(0.912)^1.1), by hand.
    assert contrast_sensitivity(8.0) == pytest.approx(2.6 * 0.9312 * np.exp(-(0.912**1.1)), rel=1e-12)
    assert contrast_sensitivity(0.0) == pytest.approx(2.6 * 0.0192)


def test_csf_peak_is_where_a_fine_grid_has_its_maximum():
    grid = np.linspace(1, 30, 2_900_001)
    assert csf_peak() == pytest.approx(grid[contrast_sensitivity(grid).argmax()], abs=2e-5)
    assert csf_peak() == pytest.approx(7.89, abs=0.005)


def test_csf_refuses_negative_frequencies():
    with pytest.raises(ValueError, match="frequency: expected"):
        contrast_sensitivity([1.0, -0.1])


def test_oriented_grating_pixel_by_pixel():
    stimulus = Stimulus(
        size=5, pixels_per_degree=4, orientation_frequency=1.3, contrast=0.6, phase=0.4, frequencies=4
    )
    grating = stimulus.oriented_grating(np.pi / 3)
    for row in range(5):
        for column in range(5):
            x, y = (column - 2) / 4, (row - 2) / 4
            angle = 2 * np.pi * 1.3 * (x * np.cos(np.pi / 3) + y * np.sin(np.pi / 3)) + 0.4
            assert grating[row, column] == pytest.approx(0.5 + 0.3 * np.cos(angle), rel=1e-12)


def test_radial_grating_pixel_by_pixel():
    grating = Stimulus(size=4, pixels_per_degree=8, orientation_frequency=3).radial_grating(2.5)
    for row in range(4):
        for column in range(4):
            radius = np.sqrt((row - 1.5) ** 2 + (column - 1.5) ** 2) / 8
            assert grating[row, column] == pytest.approx(0.5 + 0.5 * np.cos(2 * np.pi * 2.5 * radius))


def test_radial_grating_looks_the_same_from_four_sides():
    grating = Stimulus(size=33).radial_grating(6.0)
    for turned in (np.rot90(grating), grating.T, grating[::-1]):
        np.testing.assert_allclose(turned, grating, atol=1e-12)


def test_orientation_zero_varies_from_left_to_right_only():
    grating = Stimulus(size=16).oriented_grating(0.0)
    assert np.ptp(grating, axis=0).max() < 1e-12
    assert np.ptp(grating, axis=1).min() > 0.5


@given(contrast=st.floats(0.01, 1), frequency=st.floats(0.2, 14), phase=st.floats(-7, 7))
def test_code_values_stay_within_the_contrast(contrast, frequency, phase):
    stimulus = Stimulus(size=24, contrast=contrast, phase=phase)
    for grating in (stimulus.radial_grating(frequency), stimulus.oriented_grating(phase)):
        assert grating.min() >= 0.5 - contrast / 2 - 1e-12
        assert grating.max() <= 0.5 + contrast / 2 + 1e-12


def test_default_grids():
    stimulus = Stimulus()
    frequencies = stimulus.frequency_grid()
    assert (frequencies[0], frequencies[-1], len(frequencies)) == pytest.approx((32 / 224, 14.4, 64))
    assert np.ptp(np.diff(frequencies)) < 1e-12
    orientations = stimulus.orientation_grid()
    assert (orientations[0], orientations[-1], len(orientations)) == pytest.approx((0, np.pi * 35 / 36, 36))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("contrast", 0.0),
        ("contrast", 1.5),
        ("contrast", float("nan")),
        ("size", 1),
        ("size", 32.0),
        ("pixels_per_degree", -1.0),
        ("frequencies", 2),
        ("orientations", 1),
        ("highest_frequency", 17.0),
        ("lowest_frequency", 0.0),
        ("orientation_frequency", 40.0),
        ("phase", float("inf")),
    ],
)
def test_bad_parameters_are_named(field, value):
    with pytest.raises(ValueError, match=f"{field}.*expected"):
        Stimulus(**{field: value})


def test_dictionary_round_trip_resolves_defaults():
    values = Stimulus().to_dict()
    assert values["orientation_frequency"] == csf_peak()
    again = Stimulus.from_dict(values)
    np.testing.assert_array_equal(again.frequency_grid(), Stimulus().frequency_grid())
    assert again.to_dict() == values


@pytest.mark.parametrize(
    "values", [None, {}, {**Stimulus().to_dict(), "extra": 1}, {**Stimulus().to_dict(), "size": "224"}]
)
def test_foreign_dictionaries_are_refused(values):
    with pytest.raises(ValueError, match="stimulus: expected"):
        Stimulus.from_dict(values)
