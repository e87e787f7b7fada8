"""Images that are not opaque: over two backgrounds, of which the worse counts."""

import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))
from gate_corpus import ALPHA, DEEP, PHOTO, with_alpha
from gate_helpers import chunk, exif, png, tiff, write_metric

from pe_runtime.gate import Judge, read_image
from pe_runtime.gate.images import read_pair


@pytest.fixture
def save(tmp_path):
    def write(name, data):
        path = tmp_path / name
        path.write_bytes(data)
        return path

    return write


@pytest.fixture(scope="module")
def metric(tmp_path_factory):
    return write_metric(tmp_path_factory.mktemp("metric") / "metric.onnx", threshold=0.0001)


def rgba(pixels, alpha):
    return png(with_alpha(pixels, alpha), depth=16 if pixels.dtype == np.uint16 else 8, colour=6)


def over(pixels, alpha, background):
    opacity = alpha[..., None] / 255
    return pixels / 255 * opacity + np.array(background) / 255 * (1 - opacity)


@pytest.mark.parametrize("alpha_channel", [True, False])
@pytest.mark.parametrize("level", [0, 127, 128, 255])
def test_grey_in_place_of_transparency_is_seen(save, run_command, metric, alpha_channel, level):
    # A patch that is clear in the reference is opaque in the candidate, and of the background's colour.
    clear = np.full(PHOTO.shape[:2], 255, np.uint8)
    clear[8:16, 8:16] = 0
    painted = PHOTO.copy()
    painted[8:16, 8:16] = level
    reference = save("reference.png", rgba(PHOTO, clear))
    opaque = np.full_like(clear, 255)
    candidate = save(
        "candidate.png", rgba(painted, opaque) if alpha_channel else png(painted, depth=8, colour=2)
    )
    background = f"#{level:02x}{level:02x}{level:02x}"
    common = ("--metric", metric, "--background", background)
    assert run_command("gate", reference, candidate, *common)[0] == 1
    assert run_command("gate", candidate, reference, *common)[0] == 1
    assert run_command("gate", reference, reference, *common)[0] == 0


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(background=st.tuples(*[st.integers(0, 255)] * 3), seed=st.integers(0, 99))
def test_the_worse_of_two_scores(tmp_path_factory, metric, background, seed):
    folder, rng = tmp_path_factory.mktemp("pair"), np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (2, 6, 7, 3), dtype=np.uint8)
    alphas = rng.integers(0, 256, (2, 6, 7), dtype=np.uint8)
    alphas[1] |= 255 * (seed % 3 == 0)  # the second is opaque at times
    paths = [folder / "a.png", folder / "b.png"]
    for path, colours, alpha in zip(paths, pixels, alphas, strict=True):
        path.write_bytes(rgba(colours, alpha))
    first, second, _ = read_pair(*paths, background=background)
    scores = [
        np.mean((over(pixels[0], alphas[0], colour) - over(pixels[1], alphas[1], colour)) ** 2)
        for colour in (background, [255 if c < 128 else 0 for c in background])
    ]
    verdict = Judge(metric, maps=True, threads=1).score(first, second)
    assert verdict.score == pytest.approx(max(scores), rel=0.02, abs=1e-5)
    assert np.mean(verdict.map) == pytest.approx(verdict.score, rel=1e-4, abs=1e-7)


def test_opaque_images_are_scored_once(save, metric, monkeypatch):
    judge, runs = Judge(metric), []
    run = judge._run
    monkeypatch.setattr(judge, "_run", lambda tensors: runs.append(1) or run(tensors))
    opaque = np.full(PHOTO.shape[:2], 255, np.uint8)
    for data in (png(PHOTO, depth=8, colour=2), rgba(PHOTO, opaque), rgba(DEEP, opaque)):
        image = read_image(save("x.png", data))
        assert image.opposite is None
        runs.clear()
        judge.score(image, PHOTO)
        assert len(runs) == 1
    image = read_image(save("x.png", rgba(PHOTO, ALPHA)))
    runs.clear()
    judge.score(image, image)
    assert len(runs) == 2


def test_one_pixel_that_is_almost_opaque(save, metric):
    for pixels, top in ((PHOTO, 255), (DEEP, 65535)):
        alpha = np.full(PHOTO.shape[:2], top, pixels.dtype)
        alpha[3, 4] -= 1
        data = np.dstack([pixels, alpha])
        image = read_image(save("x.png", png(data, depth=8 * pixels.itemsize, colour=6)))
        assert image.opposite is not None


@pytest.mark.parametrize("kind", ["palette", "level", "colour"])
def test_transparent_colours_of_pngs(save, kind):
    indices = np.arange(64).reshape(8, 8) % 4
    if kind == "palette":
        chunks = chunk(b"PLTE", bytes(range(12))) + chunk(b"tRNS", b"\xff\0")
        data, clear = png(indices, depth=8, colour=3, chunks=chunks), indices == 1
    elif kind == "level":
        data, clear = png(indices, depth=8, colour=0, chunks=chunk(b"tRNS", b"\0\2")), indices == 2
    else:
        rgb = np.stack([indices] * 3, axis=2)
        data = png(rgb, depth=8, colour=2, chunks=chunk(b"tRNS", b"\0\2\0\2\0\2"))
        clear = indices == 2
    image = read_image(save("x.png", data), background=(255, 0, 130))
    assert (image.pixels[clear] == (255, 0, 130)).all()
    assert (image.opposite[clear] == (0, 255, 0)).all()
    np.testing.assert_array_equal(image.pixels[~clear], image.opposite[~clear])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_both_are_turned(save, orientation):
    data = png(with_alpha(PHOTO, ALPHA), depth=8, colour=6, chunks=chunk(b"eXIf", exif(orientation)))
    image, plain = read_image(save("x.png", data)), read_image(save("y.png", rgba(PHOTO, ALPHA)))
    turn = {1: 0, 3: 2, 6: -1, 8: 1, 2: 0, 4: 2, 5: 1, 7: -1}[orientation]
    for seen, stored in ((image.pixels, plain.pixels), (image.opposite, plain.opposite)):
        mirrored = stored[:, ::-1] if orientation in (2, 4, 5, 7) else stored
        np.testing.assert_array_equal(seen, np.rot90(mirrored, turn))
        assert seen.flags.c_contiguous


@pytest.mark.parametrize("depth", [8, 16])
def test_premultiplied_over_both(save, depth):
    top = 2**depth - 1
    rng = np.random.default_rng(2)
    alpha = np.where(rng.random((9, 11)) < 0.5, top, 0)  # where nothing is rounded
    samples = np.dstack([np.minimum(rng.integers(0, top + 1, (9, 11, 3)), alpha[..., None]), alpha])
    image = read_image(
        save("x.tif", tiff(samples.astype(f"u{depth // 8}"), {338: 1})), background=(0, 255, 7)
    )
    scale = top // 255
    for pixels, background in ((image.pixels, (0, 255, 7)), (image.opposite, (255, 0, 255))):
        expected = np.where(alpha[..., None] == 0, np.array(background) * scale, samples[..., :3])
        np.testing.assert_array_equal(pixels, expected)


def test_the_warning_is_about_the_file(save):
    # An alpha channel is transparency, though all of it may be opaque.
    plain = save("plain.png", png(PHOTO, depth=8, colour=2))
    other = save("other.png", rgba(PHOTO, np.full(PHOTO.shape[:2], 255, np.uint8)))
    assert read_pair(plain, other)[2] == ("only the candidate has transparency",)
    assert read_pair(other, plain)[2] == ("only the reference has transparency",)
