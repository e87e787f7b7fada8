"""pe_gate, the gate in C++, against the gate in Python: the same reports, on the same folders."""

import io
import json
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

sys.path.insert(0, str(Path(__file__).parent))
import native_build
from gate_helpers import chunk, exif, png, tiff, write_metric

SIZE = (32, 24)
RNG = np.random.default_rng(5)
PHOTO = np.asarray(
    PIL.Image.fromarray(RNG.integers(0, 256, (8, 8, 3), dtype=np.uint8)).resize(
        SIZE, PIL.Image.Resampling.BICUBIC
    )
)
DEEP = PHOTO.astype(np.uint16) * 257 + RNG.integers(-120, 120, PHOTO.shape).astype(np.uint16) % 257
GREY, GREY16 = PHOTO[..., 1], DEEP[..., 1]
ALPHA = RNG.integers(0, 256, PHOTO.shape[:2], dtype=np.uint8)


@pytest.fixture(scope="module")
def program():
    return native_build.build("pe_gate", needs="PE_GATE_REASON") / "csrc" / "app" / "pe_gate"


@pytest.fixture
def pe_gate(program):
    """Run pe_gate: exit code, standard output, standard error."""

    def call(*arguments, **environment):
        done = subprocess.run(
            [program, *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=300,
            env={
                **os.environ,
                "PE_RUNTIME_ONNXRUNTIME": str(native_build.onnxruntime_library()),
                **environment,
            },
        )
        assert done.returncode in (0, 1, 2), done.stderr
        return done.returncode, done.stdout, done.stderr

    return call


def saved(array, suffix, **options):
    buffer = io.BytesIO()
    image = array if isinstance(array, PIL.Image.Image) else PIL.Image.fromarray(array)
    image.save(buffer, suffix, **options)
    return buffer.getvalue()


def with_alpha(array, alpha):
    return np.dstack([array, alpha.astype(array.dtype) * (257 if array.dtype == np.uint16 else 1)])


def pngs():
    indices = np.arange(SIZE[0] * SIZE[1]).reshape(SIZE[::-1])
    palette = chunk(b"PLTE", RNG.integers(0, 256, 768, dtype=np.uint8).tobytes())
    for depth in (1, 2, 4, 8, 16):
        grey = indices * 40503 % 2**depth
        yield f"grey{depth}.png", png(grey, depth=depth, colour=0)
        level = chunk(b"tRNS", struct.pack(">H", int(grey[3, 3])))
        yield f"grey{depth} level.png", png(grey, depth=depth, colour=0, chunks=level)
        if depth < 16:
            short = chunk(b"PLTE", palette[8 : 8 + 3 * 2**depth])
            yield f"palette{depth}.png", png(indices % 2**depth, depth=depth, colour=3, chunks=short)
            clear = short + chunk(b"tRNS", bytes([0, 77]))
            yield f"palette{depth} clear.png", png(indices % 2**depth, depth=depth, colour=3, chunks=clear)
    for depth, rgb in ((8, PHOTO), (16, DEEP)):
        yield f"rgb{depth}.png", png(rgb, depth=depth, colour=2)
        yield f"rgba{depth}.png", png(with_alpha(rgb, ALPHA), depth=depth, colour=6)
        yield f"la{depth}.png", png(with_alpha(rgb[..., 0], ALPHA), depth=depth, colour=4)
        colour = chunk(b"tRNS", struct.pack(">3H", *rgb[5, 6].tolist()))
        yield f"rgb{depth} colour.png", png(rgb, depth=depth, colour=2, chunks=colour)
        for orientation in range(10):
            block = chunk(b"eXIf", exif(orientation))
            yield f"rgb{depth} turned{orientation}.png", png(rgb, depth=depth, colour=2, chunks=block)
    yield "icc.png", png(PHOTO, depth=8, colour=2, chunks=chunk(b"iCCP", b"x\0\0" + zlib.compress(profile())))
    xmp = b'XML:com.adobe.xmp\0\0\0\0\0<x tiff:Orientation="6"/>'
    yield "xmp.png", png(PHOTO, depth=8, colour=2, chunks=chunk(b"iTXt", xmp))
    raw = b"Raw profile type exif\0\0" + zlib.compress(
        b"\nexif\n" + str(len(exif(8))).encode() + b"\n" + exif(8).hex().encode()
    )
    yield "raw profile.png", png(PHOTO, depth=8, colour=2, chunks=chunk(b"zTXt", raw))
    interlaced = io.BytesIO()
    PIL.Image.fromarray(PHOTO).save(interlaced, "PNG", optimize=True)
    yield "optimised.png", interlaced.getvalue()
    animation = io.BytesIO()
    frames = [PIL.Image.fromarray(PHOTO), PIL.Image.fromarray(255 - PHOTO)]
    frames[0].save(animation, "PNG", save_all=True, append_images=frames[1:])
    yield "animation.apng", animation.getvalue()


def profile():
    from PIL import ImageCms

    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def jpegs():
    image = PIL.Image.fromarray(PHOTO)
    for subsampling in (0, 1, 2):
        for progressive in (False, True):
            options = {"quality": 83, "subsampling": subsampling, "progressive": progressive}
            yield f"s{subsampling} p{progressive}.jpg", saved(image, "JPEG", **options)
    yield "grey.jpg", saved(GREY, "JPEG")
    yield "cmyk.jpg", saved(image.convert("CMYK"), "JPEG", quality=90)
    yield "icc.jpg", saved(image, "JPEG", icc_profile=profile())
    yield "restart.jpg", saved(image, "JPEG", restart_marker_blocks=2)
    odd = PIL.Image.fromarray(PHOTO[:23, :31])
    yield "odd.jpg", saved(odd, "JPEG", subsampling=2)
    for orientation in range(1, 9):
        yield f"turned{orientation}.jpg", saved(image, "JPEG", exif=b"Exif\0\0" + exif(orientation))
    yield "xmp.jpg", saved(image, "JPEG", xmp=b"<tiff:Orientation>3</tiff:Orientation>")
    several = io.BytesIO()
    image.save(several, "MPO", save_all=True, append_images=[PIL.Image.fromarray(255 - PHOTO)])
    yield "several.mpo", several.getvalue()
    yield "without end.jpg", saved(image, "JPEG")[:-2]


def others():
    image = PIL.Image.fromarray(PHOTO)
    rgba = PIL.Image.fromarray(with_alpha(PHOTO, ALPHA))
    for name, options in {"lossy": {"quality": 70}, "lossless": {"lossless": True, "exact": True}}.items():
        yield f"{name}.webp", saved(image, "WEBP", **options)
        yield f"{name} alpha.webp", saved(rgba, "WEBP", **options)
    yield (
        "turned.webp",
        saved(image, "WEBP", lossless=True, exif=b"Exif\0\0" + exif(5), icc_profile=profile()),
    )
    animation = io.BytesIO()
    image.save(animation, "WEBP", save_all=True, append_images=[rgba])
    yield "animation.webp", animation.getvalue()

    yield "rgb.bmp", saved(image, "BMP")
    yield "grey.bmp", saved(GREY, "BMP")
    yield "palette.bmp", saved(image.quantize(16), "BMP")
    yield "bits.bmp", saved(image.convert("1"), "BMP")
    yield "alpha.bmp", saved(rgba, "BMP")
    top_down = bytearray(saved(image, "BMP"))
    top_down[22:26] = struct.pack("<i", -SIZE[1])
    yield "top down.bmp", bytes(top_down)
    yield "fields.dib", bitmap(0xF800, 0x7E0, 0x1F)
    yield "fields5.bmp", bitmap(0x7C00, 0x3E0, 0x1F)

    for compression in (None, "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg", "tiff_jpeg"):
        if compression != "tiff_jpeg":
            yield f"rgb {compression}.tif", saved(image, "TIFF", compression=compression)
        if compression not in ("jpeg", "tiff_jpeg"):
            yield f"rgba {compression}.tif", saved(rgba, "TIFF", compression=compression)
            yield f"palette {compression}.tif", saved(image.quantize(30), "TIFF", compression=compression)
            yield f"cmyk {compression}.tif", saved(image.convert("CMYK"), "TIFF", compression=compression)
            yield f"bits {compression}.tif", saved(image.convert("1"), "TIFF", compression=compression)
            grey16 = PIL.Image.fromarray(GREY16)
            yield f"grey16 {compression}.tif", saved(grey16, "TIFF", compression=compression)
    yield "fax.tif", saved(image.convert("1"), "TIFF", compression="group4")
    for compression in ("tiff_lzw", "jpeg"):
        yield f"ycbcr {compression}.tif", saved(image.convert("YCbCr"), "TIFF", compression=compression)
    yield "icc.tif", saved(image, "TIFF", icc_profile=profile())
    for depth, rgb in ((8, PHOTO), (16, DEEP)):
        for extra in (None, 0, 1, 2):
            samples = with_alpha(rgb, ALPHA)
            if extra == 1:
                samples[..., :3] = np.minimum(samples[..., :3], samples[..., 3:])
            yield f"extra{extra} {depth}.tif", tiff(samples, {} if extra is None else {338: extra})
        for white in (0, 1):
            yield f"white{white} {depth}.tif", tiff(rgb[..., 0], {262: white})
        yield f"la {depth}.tif", tiff(with_alpha(rgb[..., 0], ALPHA), {338: 2, 262: 1})
        for orientation in range(1, 9):
            yield f"turned{orientation} {depth}.tif", tiff(rgb, {274: orientation})
        planes = np.moveaxis(rgb, 2, 0)
        yield f"planar {depth}.tif", planar_tiff(planes)
    pages = io.BytesIO()
    image.save(pages, "TIFF", save_all=True, append_images=[image])
    yield "pages.tif", pages.getvalue()
    yield "float.tif", tiff(GREY.astype(np.float32), {339: 3})
    yield "signed.tif", tiff(GREY16.view(np.int16), {339: 2})
    yield "text.png", b"hello"
    yield "empty.png", b""
    yield "gif.png", saved(image, "GIF")
    for name, data in (
        ("rgb.png", saved(image, "PNG")),
        ("rgb.jpg", saved(image, "JPEG")),
        ("rgb.webp", saved(image, "WEBP")),
        ("rgb.bmp", saved(image, "BMP")),
        ("rgb.tif", saved(image, "TIFF")),
        ("lzw.tif", saved(image, "TIFF", compression="tiff_lzw")),
    ):
        yield f"truncated {name}", data[: len(data) * 2 // 3]


def bitmap(*masks):
    pixels = RNG.integers(0, 65536, (SIZE[1], SIZE[0]), dtype=np.uint16).astype("<u2").tobytes()
    offset = 14 + 40 + 12
    header = struct.pack("<IiiHHIIiiII", 40, *SIZE, 1, 16, 3, len(pixels), 0, 0, 0, 0)
    return (
        struct.pack("<2sIII", b"BM", offset + len(pixels), 0, offset)
        + header
        + struct.pack("<3I", *masks)
        + pixels
    )


def planar_tiff(planes):
    """A TIFF of three planes, one strip each."""
    count, height, width = planes.shape
    size = height * width * planes.dtype.itemsize
    offsets = [8 + i * size for i in range(count)]
    tags = {258: [planes.dtype.itemsize * 8] * 3, 262: 2, 273: offsets, 277: 3, 279: [size] * 3, 284: 2}
    return tiff(planes.reshape(count * height, width), {**tags, 257: height, 278: height})


def write_corpus(folder, files, reference):
    """Files as candidates, and for each a reference of noise with the same size as seen."""
    for name, data in files:
        path = folder / "candidate" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        swapped = any(f"turned{i}" in name for i in range(5, 9)) or name in (
            "xmp.png",
            "raw profile.png",
            "turned.webp",
        )
        width, height = SIZE[::-1] if swapped else SIZE
        if name == "odd.jpg":
            width, height = 31, 23
        (folder / reference).mkdir(exist_ok=True)
        noise = np.random.default_rng(len(name)).integers(0, 256, (height, width, 3), dtype=np.uint8)
        (folder / reference / name).write_bytes(saved(noise, "PNG"))


def reports(tmp_path, run_command, pe_gate, *arguments):
    """What both gates do with the same arguments: code, output, errors; and their JSON and CSV reports."""
    runs, texts = [], []
    for name, gate in (("python", lambda *a: run_command("gate", *a)), ("native", pe_gate)):
        files = [tmp_path / f"{name}.json", tmp_path / f"{name}.csv"]
        runs.append(gate(*arguments, "--json", files[0], "--csv", files[1]))
        texts.append([file.read_text() for file in files])
    return runs, texts


def shortened(report):
    """The report with the part of each error that is not a decoder's own words."""
    for result in report["results"]:
        if result["error"] is not None:
            result["error"] = result["error"].partition(": ")[0]
    return report


@pytest.mark.parametrize("uint8", [False, True])
@pytest.mark.parametrize("kind", [pngs, jpegs, others])
def test_images_are_read_as_by_the_python_gate(tmp_path, run_command, pe_gate, kind, uint8):
    write_corpus(tmp_path, kind(), "reference")
    metric = write_metric(tmp_path / "m.onnx", uint8=uint8)
    (python, native), ((first, _), (second, _)) = reports(
        tmp_path, run_command, pe_gate, tmp_path / "reference", tmp_path / "candidate",
        "--metric", metric, "--threshold", "0.15", "--background", "#102030",
    )  # fmt: skip
    assert native[0] == python[0]
    first, second = (shortened(json.loads(text)) for text in (first, second))
    assert sum(result["score"] is not None for result in first["results"]) > 20
    for one, other in zip(first["results"], second["results"], strict=True):
        assert one == other
    assert first == second


def write_image(path, level, size=(16, 12)):
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.new("RGB", size, (level, level // 2, 255 - level)).save(path)
    return path


@pytest.fixture
def folders(tmp_path):
    """Two folders in which something of everything happens to pairs."""
    for side, level in (("old", 10), ("new", 20)):
        write_image(tmp_path / side / "same.png", 10)
        write_image(tmp_path / side / "other.png", level)
        write_image(tmp_path / side / "deep" / "far.png", level * 12)
        write_image(tmp_path / side / "deep" / "日本 ü.png", level)
        write_image(tmp_path / side / ".hidden.png", level)
        write_image(tmp_path / side / "size.png", 10, (level, 12))
        (tmp_path / side / "notes.txt").write_text("no image")
    write_image(tmp_path / "old" / "gone.png", 1)
    write_image(tmp_path / "new" / 'fresh, "quoted".png', 1)
    write_image(tmp_path / "old" / "stem.png", 10)
    write_image(tmp_path / "new" / "stem.bmp", 11)
    (tmp_path / "new" / "loop").symlink_to(tmp_path / "new", target_is_directory=True)
    (tmp_path / "new" / "broken.png").symlink_to(tmp_path / "nowhere.png")
    (tmp_path / "new" / "twin.png").symlink_to(tmp_path / "old" / "same.png")
    (tmp_path / "old" / "twin.png").symlink_to(tmp_path / "old" / "same.png")
    return tmp_path / "old", tmp_path / "new"


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["--allow-missing", "--allow-extra"],
        ["--match-stem", "--allow-extra", "--sort", "name"],
        ["--quiet", "--jobs", "3", "--threads", "1", "--background", "Teal"],
    ],
    ids=" ".join,
)
def test_reports_are_those_of_the_python_gate(tmp_path, folders, run_command, pe_gate, options):
    metric = write_metric(tmp_path / "m.onnx", threshold=0.1)
    (python, native), (first, second) = reports(
        tmp_path, run_command, pe_gate, *folders, "--metric", metric, *options
    )
    assert native == python
    assert second == first
    assert native[0] == 2


@pytest.mark.parametrize(
    ("threshold", "code", "verdict"), [("0.01", 0, "pass"), ("0.0001", 1, "fail"), ("0", 1, "fail")]
)
def test_two_files(tmp_path, run_command, pe_gate, threshold, code, verdict):
    metric = write_metric(tmp_path / "m.onnx")
    pair = write_image(tmp_path / "a.png", 10), write_image(tmp_path / "b.png", 20)
    (python, native), (first, second) = reports(
        tmp_path, run_command, pe_gate, *pair, "--metric", metric, "--threshold", threshold
    )
    assert (native, second) == (python, first)
    assert native[0] == code
    assert json.loads(second[0])["verdict"] == verdict


def test_names_that_are_no_text(tmp_path, run_command, pe_gate):
    metric = write_metric(tmp_path / "m.onnx", threshold=0.1)
    for side in ("old", "new"):
        (tmp_path / side).mkdir()
        for name in (
            b"\xff.png",
            "\ue000.png".encode(),
            "😀\u202e.png".encode(),
            b"\x1b[31m.png",
            b"a\nb.png",
        ):
            write_image(tmp_path / "x.png", 10).rename(
                os.fsdecode(os.fsencode(tmp_path / side) + b"/" + name)
            )
    (python, native), (first, second) = reports(
        tmp_path, run_command, pe_gate, tmp_path / "old", tmp_path / "new", "--metric", metric
    )
    assert second == first
    assert native[0] == python[0] == 0
    assert native[1] == python[1]


def test_working_directory_and_untidy_paths(tmp_path, folders, run_command, pe_gate, monkeypatch):
    metric = write_metric(tmp_path / "m.onnx", threshold=0.1)
    monkeypatch.chdir(folders[0])
    (python, native), (first, second) = reports(
        tmp_path, run_command, pe_gate, ".", f"{tmp_path}//new/./", "--metric", f"./../{metric.name}"
    )
    assert native == python
    assert second == first


@pytest.mark.parametrize("top", [None, "0.01"])
def test_maps(tmp_path, run_command, pe_gate, top):
    # Maps of a coarser size than the images, which are not square.
    metric = tmp_path / "m.onnx"
    pooled_metric(metric)
    write_corpus(tmp_path, list(pngs())[-6:], "reference")
    options = ["--metric", metric, "--threshold", "0.1"] + ([] if top is None else ["--map-max", top])
    folders = tmp_path / "reference", tmp_path / "candidate"
    python = run_command("gate", *folders, *options, "--maps", tmp_path / "python")
    native = pe_gate(*folders, *options, "--maps", tmp_path / "native")
    assert native[1] == python[1].replace(str(tmp_path / "python"), str(tmp_path / "native"))
    files = sorted(path.relative_to(tmp_path / "python") for path in (tmp_path / "python").rglob("*"))
    assert len(files) >= 4
    assert files == sorted(path.relative_to(tmp_path / "native") for path in (tmp_path / "native").rglob("*"))
    for file in files:
        one, other = (PIL.Image.open(tmp_path / side / file) for side in ("python", "native"))
        assert one.text == other.text
        np.testing.assert_array_equal(np.asarray(one), np.asarray(other))


def pooled_metric(path):
    import onnx
    from onnx import helper

    model = onnx.load(write_metric(path))
    for node in model.graph.node:
        node.output[:] = ["fine" if name == "map" else name for name in node.output]
        node.input[:] = ["fine" if name == "map" else name for name in node.input]
    model.graph.node.append(
        helper.make_node("AveragePool", ["fine"], ["map"], kernel_shape=[5, 3], strides=[5, 3])
    )
    for axis in (2, 3):
        model.graph.output[1].type.tensor_type.shape.dim[axis].dim_param = f"pooled{axis}"
    onnx.save(model, path)


CASES = {
    "threshold": (["--threshold", "-1"], "threshold: expected a finite number >= 0, got -1"),
    "nan": (["--threshold", "nan"], "threshold: expected a finite number >= 0, got nan"),
    "background": (["--background", "mauve-ish"], "background: expected a colour such as"),
    "jobs": (["--jobs", "-2"], "jobs: expected 0 (one per core) or more, got -2"),
    "threads": (["--threads", "-2"], "threads: expected 0 (one per core) or more, got -2"),
    "provider": (["--provider", "abacus"], "got 'abacus'"),
    "map max": (["--maps", "maps", "--map-max", "0"], "map-max: expected a finite number above 0"),
    "maps inside": (["--maps", "{new}/maps"], "maps: expected a directory outside candidate"),
    "metric": (["--metric", "missing.onnx"], "No such file or directory: 'missing.onnx'"),
    "directory": (["--metric", "."], "expected an ONNX file, got a directory"),
}


@pytest.mark.parametrize("case", CASES)
def test_errors_that_precede_all_pairs(tmp_path, folders, run_command, pe_gate, monkeypatch, case):
    monkeypatch.chdir(tmp_path)
    options, message = CASES[case]
    options = [option.format(new=folders[1]) for option in options]
    metric = write_metric(tmp_path / "m.onnx", threshold=0.1)
    if "--metric" not in options:
        options += ["--metric", metric]
    (python, native), (first, second) = reports(tmp_path, run_command, pe_gate, *folders, *options)
    assert native[0] == python[0] == 2
    assert message in native[2]
    assert native[1] == ""
    assert second[1] == first[1]
    first, second = json.loads(first[0]), json.loads(second[0])
    assert message in second["error"]
    assert first == second


def test_usage(tmp_path, pe_gate):
    metric = write_metric(tmp_path / "m.onnx")
    code, out, _ = pe_gate("--help")
    assert code == 0
    assert "--allow-missing" in out
    assert pe_gate("--version")[1].startswith("pe_gate, version ")
    for arguments in ([], ["a", "b"], ["a", "b", "--metric", metric, "--sort", "size"], ["--what"]):
        code, out, err = pe_gate(*arguments)
        assert code == 2
        assert out == ""
        assert err
    code, _, err = pe_gate("a", "b", "--metric", metric, "--json", "x", "--csv", "./x")
    assert code == 2
    assert "expected different files" in err


def test_no_onnx_runtime(tmp_path, pe_gate):
    metric = write_metric(tmp_path / "m.onnx", threshold=0.1)
    pair = write_image(tmp_path / "a.png", 10), write_image(tmp_path / "b.png", 20)
    code, _, err = pe_gate(*pair, "--metric", metric, PE_RUNTIME_ONNXRUNTIME=str(tmp_path / "none.so"))
    assert code == 2
    assert "PE_RUNTIME_ONNXRUNTIME: expected the library of ONNX Runtime" in err
    library = native_build.onnxruntime_library()
    code, _, _ = pe_gate(
        *pair, "--metric", metric, "--onnxruntime", library, PE_RUNTIME_ONNXRUNTIME=str(tmp_path / "none.so")
    )
    assert code == 0


def test_output_that_cannot_be_written(tmp_path, program):
    metric = write_metric(tmp_path / "m.onnx", threshold=0.1)
    pair = write_image(tmp_path / "a.png", 10), write_image(tmp_path / "b.png", 20)
    environment = {**os.environ, "PE_RUNTIME_ONNXRUNTIME": str(native_build.onnxruntime_library())}
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [program, *pair, "--metric", metric],
            stdout=full,
            stderr=subprocess.PIPE,
            env=environment,
            timeout=60,
        )
    assert done.returncode == 2
    assert b"Error: report: expected to be read to its end" in done.stderr
    with subprocess.Popen(
        [program, *pair, "--metric", metric], stdout=subprocess.PIPE, env=environment
    ) as run:
        run.stdout.close()
        assert run.wait(60) == 2


def test_damaged_images_do_not_end_it(tmp_path, pe_gate):
    metric = write_metric(tmp_path / "m.onnx", threshold=1)
    rng = np.random.default_rng(11)
    count = 0
    for name, data in (*pngs(), *jpegs(), *others()):
        for turn in range(6):
            changed = bytearray(data)
            for _ in range(rng.integers(1, 5)):
                at = int(rng.integers(len(changed))) if changed else 0
                action = rng.integers(8)
                if not changed:
                    break
                if action < 4:
                    changed[at] ^= 1 << rng.integers(8)
                elif action < 6:
                    changed[at] = rng.integers(256)
                elif action == 6:
                    del changed[at : at + rng.integers(1, 9)]
                elif rng.random() < 0.3:
                    del changed[max(at, 1) :]
            count += 1
            stem, _, suffix = name.rpartition(".")
            for side, content in (("old", data), ("new", changed)):
                path = tmp_path / side / f"{stem} {turn}.{suffix}"
                path.parent.mkdir(exist_ok=True)
                path.write_bytes(content)
    code, _, _ = pe_gate(
        tmp_path / "old", tmp_path / "new", "--metric", metric, "--json", tmp_path / "report.json"
    )
    assert code == 2
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["counts"]["pairs"] == count
    assert report["counts"]["errors"] > count / 4
    assert report["counts"]["passed"] > count / 10


def test_pairs_scored_at_once(tmp_path, folders, pe_gate):
    arguments = [*folders, "--metric", write_metric(tmp_path / "m.onnx", threshold=0.1), "--json", "-"]
    assert pe_gate(*arguments, "--at-once", "3")[:2] == pe_gate(*arguments)[:2]
    code, _, err = pe_gate(*arguments, "--at-once", "0")
    assert code == 2
    assert "at-once: expected 1 or more, got 0" in err


@pytest.mark.parametrize(
    ("option", "missing", "message"),
    [
        ("PE_GATE", "CLI11", "pe_gate: not found: CLI11. scripts/system_packages.sh gets what it needs"),
        ("PE_GATE", "TIFF", "pe_gate: not found: TIFF."),
        ("PE_CAPI", "nlohmann_json", "C library: nlohmann_json not found. scripts/system_packages.sh"),
    ],
)
def test_what_is_missing_is_left_out_or_an_error(tmp_path, option, missing, message):
    native_build.build("pe_c", needs="PE_CAPI_REASON")  # all that follows lacks one thing only
    headers = native_build.cached(native_build.folder(), "ONNXRUNTIME_INCLUDE_DIR")
    arguments = ["-D", f"CMAKE_DISABLE_FIND_PACKAGE_{missing}=ON", "-D", f"ONNXRUNTIME_INCLUDE_DIR={headers}"]
    arguments += ["-D", "PE_TORCH=OFF", "-D", "PE_TESTS=OFF"]
    native_build.configure(native_build.ROOT, tmp_path, *arguments)
    assert missing in native_build.cached(tmp_path, f"{option}_REASON")
    done = subprocess.run(
        [native_build.tool("cmake"), "-D", f"{option}=ON", tmp_path], capture_output=True, text=True
    )
    assert done.returncode != 0
    assert message in " ".join(done.stderr.split())
