"""Colours that are described differently: converted where that is known to be right, refused elsewhere."""

import io
import json
import sys
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ImageCms

sys.path.insert(0, str(Path(__file__).parent))
from gate_corpus import (
    ALPHA,
    COLOUR_CHUNKS,
    DEEP,
    GREY,
    PHOTO,
    SRGB_CHRM,
    bare_profile,
    icc,
    profile,
    saved,
    swapped_profile,
    with_alpha,
)
from gate_helpers import png, tiff, write_metric

from pe_runtime.gate import Judge, read_image
from pe_runtime.gate.colour import Colour, ProfileError, converter, described
from pe_runtime.gate.images import read_pair

CONVERTED = "the colours of the {} are converted from its ICC profile to sRGB"
ROUNDED = "the 16-bit pixels of the {} are rounded to 8 bits to be converted"


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


WORDS = {
    "srgb": "sRGB",
    "gamma 1": "gAMA 1",
    "gamma sRGB": "sRGB",
    "gamma near": "sRGB",
    "gamma not near": "gAMA 0.45956",
    "chrm sRGB": "sRGB",
    "chrm": "cHRM",
    "chrm sRGB gamma 1": "gAMA 1 and cHRM",
    "chrm gamma sRGB": "gAMA 0.45455 and cHRM",
    "cicp sRGB": "sRGB",
    "cicp PQ": "cICP 9/16/0/1",
    "cicp PQ, srgb": "cICP 9/16/0/1",
    "srgb, gamma 1": "sRGB",
    "icc sRGB": "ICC profile",
    "icc swapped": "ICC profile",
    "icc grey": "ICC profile",
    "icc CMYK": "ICC profile",
    "icc damaged": "ICC profile",
    "icc sRGB, gamma 1": "ICC profile",
}


@pytest.mark.parametrize("name", COLOUR_CHUNKS)
def test_descriptions_of_pngs(save, name):
    colour = read_image(save("x.png", png(PHOTO, depth=8, colour=2, chunks=COLOUR_CHUNKS[name]))).colour
    assert colour.words == WORDS[name]
    assert bool(colour.icc) == name.startswith("icc")
    assert (colour == Colour()) == (WORDS[name] == "sRGB")


def test_a_file_without_a_description_is_srgb(save):
    for kind in ("PNG", "JPEG", "WEBP", "BMP", "TIFF"):
        assert read_image(save("x", saved(PHOTO, kind))).colour == Colour()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_profiles_of_all_formats(save, kind):
    image = read_image(save("x", saved(PHOTO, kind, icc_profile=swapped_profile())))
    assert image.colour.icc == swapped_profile()
    assert len(image.icc) == 64


@settings(max_examples=200)
@given(
    gamma=st.none() | st.integers(44900, 46000) | st.integers(0, 2**32 - 1),
    place=st.integers(0, 7),
    change=st.integers(-600, 600),
)
def test_what_is_near_srgb(gamma, place, change):
    numbers = list(SRGB_CHRM)
    numbers[place] += change
    near = (gamma is None or abs(gamma - 45455) <= 500) and abs(change) <= 500
    colour = described(gamma=gamma, chromaticities=tuple(numbers))
    assert (colour == Colour()) == near
    if not near:
        assert colour.words == ("cHRM" if gamma is None else f"gAMA {gamma / 100000:g} and cHRM")


def test_descriptions_are_equal_by_their_numbers():
    assert described(gamma=100000) == described(gamma=100000)
    # Of the same words, for six digits are shown.
    assert described(gamma=100000001) != described(gamma=100000002)
    assert described(icc=b"a") != described(icc=b"b")


@pytest.mark.parametrize("grey", [False, True])
@pytest.mark.parametrize("name", [name for name in WORDS if WORDS[name] not in ("sRGB", "ICC profile")])
def test_what_cannot_be_converted_is_refused(save, run_command, metric, name, grey):
    layout = {"depth": 8, "colour": 0 if grey else 2}
    pixels = GREY if grey else PHOTO
    plain = save("plain.png", png(pixels, **layout))
    other = save("other.png", png(pixels, **layout, chunks=COLOUR_CHUNKS[name]))
    judge = Judge(metric)
    for pair, words in (
        ((plain, other), f"(sRGB and {WORDS[name]})"),
        ((other, plain), f"({WORDS[name]} and sRGB)"),
    ):
        with pytest.raises(ValueError, match="described differently") as caught:
            judge.score(*pair)
        assert str(caught.value) == (
            f"the colours of reference and candidate are described differently {words}, and only ICC "
            "profiles can be converted; --colour stored compares the stored values"
        )
        code, out, _ = run_command("gate", *pair, "--metric", metric)
        assert code == 2
        assert "are described differently" in out
        code, out, _ = run_command("gate", *pair, "--metric", metric, "--colour", "stored")
        assert code == 0
        assert f"the colours are described differently {words}, and are compared as stored" in out
        assert run_command("gate", *pair, "--metric", metric, "--colour", "stored", "--strict")[0] == 2
    verdict = judge.score(other, save("again.png", other.read_bytes()))
    assert (verdict.score, verdict.warnings) == (0, ())


def test_equal_profiles_are_compared_as_stored(save, metric):
    # Whatever they hold.
    for name in ("icc swapped", "icc CMYK", "icc damaged"):
        a, b = (save(f"{n}.png", png(PHOTO, depth=8, colour=2, chunks=COLOUR_CHUNKS[name])) for n in "ab")
        verdict = Judge(metric).score(a, b)
        assert (verdict.score, verdict.warnings) == (0, ())


def test_a_profile_is_applied(save, metric):
    swapped = png(PHOTO[..., ::-1], depth=8, colour=2, chunks=icc(swapped_profile()))
    plain, other = save("plain.png", png(PHOTO, depth=8, colour=2)), save("other.png", swapped)
    first, second, warnings = read_pair(plain, other)
    assert warnings == (CONVERTED.format("candidate"),)
    np.testing.assert_array_equal(first.pixels, PHOTO)
    # The same primaries in another order: what is left is rounding.
    assert np.abs(second.pixels.astype(int) - PHOTO).max() <= 2
    assert second.colour == Colour()
    # Stored values alone would have said that these two are equal.
    same = save("same.png", png(PHOTO, depth=8, colour=2, chunks=icc(swapped_profile())))
    assert not Judge(metric).score(plain, same).passed
    assert Judge(metric, colour="stored").score(plain, same).score == 0
    np.testing.assert_array_equal(read_image(other).pixels, PHOTO[..., ::-1])
    np.testing.assert_array_equal(read_image(other, colour="srgb").pixels, second.pixels)


def test_two_profiles_are_both_applied(save):
    a = save("a.png", png(PHOTO[..., ::-1], depth=8, colour=2, chunks=icc(swapped_profile())))
    b = save("b.png", png(DEEP, depth=16, colour=2, chunks=icc(profile())))
    first, second, warnings = read_pair(a, b)
    assert warnings == (
        CONVERTED.format("reference"),
        ROUNDED.format("candidate"),
        CONVERTED.format("candidate"),
    )
    assert first.pixels.dtype == second.pixels.dtype == np.uint8
    assert np.abs(second.pixels.astype(int) - DEEP / 257).max() <= 2
    assert np.abs(first.pixels.astype(int) - PHOTO).max() <= 2


@pytest.mark.parametrize("size", [(24, 32), (1, 200_000), (700, 300), (3, 1)])
def test_conversion_by_blocks_is_that_of_the_whole(save, size):
    pixels = np.random.default_rng(1).integers(0, 256, (*size, 3), dtype=np.uint8)
    path = save("x.png", png(pixels, depth=8, colour=2, chunks=icc(swapped_profile())))
    whole = ImageCms.profileToProfile(
        PIL.Image.fromarray(pixels),
        ImageCms.getOpenProfile(io.BytesIO(swapped_profile())),
        ImageCms.createProfile("sRGB"),
        renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
        flags=ImageCms.Flags.NOOPTIMIZE | ImageCms.Flags.NOCACHE,
    )
    np.testing.assert_array_equal(read_image(path, colour="srgb").pixels, np.asarray(whole))


def srgb_encoded(linear):
    """IEC 61966-2-1."""
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize("gamma", [1.0, 1.8])
def test_grey_profiles(save, depth, gamma):
    levels = np.arange(256).reshape(16, 16)
    stored = levels * (1 if depth == 8 else 257)
    data = png(stored, depth=depth, colour=0, chunks=icc(bare_profile(b"GRAY", gamma)))
    pixels = read_image(save("x.png", data), colour="srgb").pixels
    expected = 255 * srgb_encoded((levels / 255) ** (round(gamma * 256) / 256))
    assert pixels.dtype == np.uint8
    assert np.abs(pixels - expected[..., None]).max() <= 1


@pytest.mark.parametrize("depth", [8, 16])
def test_colours_are_converted_before_they_are_composited(save, depth):
    stored = with_alpha(PHOTO if depth == 8 else DEEP, ALPHA)
    data = png(stored, depth=depth, colour=6, chunks=icc(swapped_profile()))
    plain = png(stored[..., :3], depth=depth, colour=2, chunks=icc(swapped_profile()))
    image = read_image(save("x.png", data), background=(10, 200, 30), colour="srgb")
    opaque = read_image(save("y.png", plain), colour="srgb").pixels
    opacity = ALPHA[..., None] / 255
    for pixels, background in ((image.pixels, (10, 200, 30)), (image.opposite, (255, 0, 255))):
        expected = opaque * opacity + np.array(background) * (1 - opacity)
        np.testing.assert_array_equal(pixels, np.floor(expected + 0.5))


def test_16_bits_are_rounded_to_be_converted(save):
    levels = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    rounded = np.rint(levels / 257).astype(np.uint8)
    chunks = icc(bare_profile(b"GRAY"))
    deep = save("deep.png", png(levels, depth=16, colour=0, chunks=chunks))
    flat = save("flat.png", png(rounded, depth=8, colour=0, chunks=chunks))
    np.testing.assert_array_equal(
        read_image(deep, colour="srgb").pixels, read_image(flat, colour="srgb").pixels
    )


REASONS = {
    "no profile": (lambda: png(PHOTO, depth=8, colour=2, chunks=icc(b"x")), "littlecms cannot read it"),
    "no tags": (
        lambda: png(PHOTO, depth=8, colour=2, chunks=icc(bare_profile(b"RGB "))),
        "littlecms cannot read it",
    ),
    "grey profile": (
        lambda: png(PHOTO, depth=8, colour=2, chunks=icc(bare_profile(b"GRAY"))),
        "its colour space does not fit the pixels",
    ),
    "CMYK profile": (
        lambda: png(PHOTO, depth=8, colour=2, chunks=icc(bare_profile(b"CMYK"))),
        "its colour space does not fit the pixels",
    ),
    "RGB profile of grey": (
        lambda: png(GREY, depth=8, colour=0, chunks=icc(profile())),
        "its colour space does not fit the pixels",
    ),
    "CMYK pixels": (
        lambda: saved(PIL.Image.fromarray(PHOTO).convert("CMYK"), "JPEG", icc_profile=profile()),
        "its colour space does not fit the pixels",
    ),
    "premultiplied": (
        lambda: tiff(
            with_alpha(PHOTO // 2, ALPHA | 128), {338: 1, 34675: list(profile())}, byte_tags=(34675,)
        ),
        "the pixels are premultiplied",
    ),
}


@pytest.mark.parametrize("what", REASONS)
def test_profiles_that_cannot_be_applied(save, what):
    make, reason = REASONS[what]
    plain, other = save("plain.png", png(PHOTO, depth=8, colour=2)), save("other", make())
    for side, pair in (("candidate", (plain, other)), ("reference", (other, plain))):
        with pytest.raises(ValueError, match="cannot be converted") as caught:
            read_pair(*pair)
        assert str(caught.value) == f"the ICC profile of the {side} cannot be converted to sRGB: {reason}"
        assert read_pair(*pair, colour="stored")[2][0].startswith("the colours are described differently")
    with pytest.raises(ValueError, match=f"other: the ICC profile cannot be converted to sRGB: {reason}"):
        read_image(other, colour="srgb")


@settings(max_examples=200, deadline=None)
@given(data=st.data(), space=st.sampled_from(["RGB", "GRAY", "CMYK"]))
def test_any_profile(data, space):
    changed = bytearray(swapped_profile() if data.draw(st.booleans()) else bare_profile(b"GRAY"))
    for _ in range(data.draw(st.integers(0, 5))):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(changed)) | st.just(len(changed)))
    try:
        convert = converter(bytes(changed[:cut]), space)
    except ProfileError:
        return
    pixels = GREY if space == "GRAY" else PHOTO
    assert convert(pixels).shape == PHOTO.shape


def test_images_that_were_read_apart(save, metric):
    plain = save("plain.png", png(PHOTO, depth=8, colour=2))
    other = save("other.png", png(PHOTO, depth=8, colour=2, chunks=icc(swapped_profile())))
    judge = Judge(metric)
    with pytest.raises(ValueError, match="colour='srgb'"):
        judge.score(read_image(plain), read_image(other))
    with pytest.raises(ValueError, match="colour='srgb'"):
        judge.score(plain, read_image(other))
    apart = judge.score(read_image(plain), read_image(other, colour="srgb"))
    assert apart.score == judge.score(plain, other).score
    gamma = read_image(save("gamma.png", png(PHOTO, depth=8, colour=2, chunks=COLOUR_CHUNKS["gamma 1"])))
    with pytest.raises(ValueError, match=r"\(sRGB and gAMA 1\)"):
        judge.score(read_image(plain), gamma)
    # Arrays are taken as they are.
    assert judge.score(PHOTO, gamma).score == 0
    with pytest.raises(ValueError, match=r"expected sRGB or an ICC profile, got gAMA 1"):
        read_image(gamma.path, colour="srgb")
    for function in (lambda: read_image(plain, colour="p3"), lambda: Judge(metric, colour="p3")):
        with pytest.raises(ValueError, match="colour: expected one of 'srgb', 'stored', got 'p3'"):
            function()


def test_the_report_says_how_colours_are_compared(save, run_command, metric, tmp_path):
    plain = save("plain.png", png(PHOTO, depth=8, colour=2))
    for options, expected in (((), "srgb"), (("--colour", "stored"), "stored")):
        _, out, _ = run_command("gate", plain, plain, "--metric", metric, "--json", "-", *options)
        assert json.loads(out)["settings"]["colour"] == expected
    assert run_command("gate", plain, plain, "--metric", metric, "--colour", "p3")[0] == 2


def test_a_long_profile_of_a_jpeg_is_put_together(save):
    # In parts of 64 KiB.
    long = swapped_profile() + bytes(150_000)
    assert read_image(save("x.jpg", saved(PHOTO, "JPEG", icc_profile=long))).colour.icc == long
