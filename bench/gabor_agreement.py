"""How well does the `gabor` distance agree with published full-reference metrics?

Distorts photographs in sixteen ways at five strengths, scores every pair with the gabor backbone, with and
without its lowpass tap and its normalisation, and with published metrics (package `piq`), and prints Spearman
rank correlations over pairs pooled: of all distortions, without global shifts of colour, and of colour alone.
HaarPSI, MDSI and FSIM agree best with people among hand-made metrics, so they stand in for people here:
proxies, not opinion scores. They do not see uniform shifts of brightness, so none are among the distortions.

    python bench/gabor_agreement.py
"""

from __future__ import annotations

import io
import json
import platform
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import mean

import click
import numpy as np
import piq
import torch
from PIL import Image
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from scipy.ndimage import gaussian_filter
from scipy.stats import rankdata

from pe_runtime.backbones.gabor import GABOR_SCALES, GABOR_TAPS, GaborNetwork, build_gabor

KODAK = Path(__file__).resolve().parents[2] / "shared" / "images" / "kodak"
PROXIES: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "HaarPSI": lambda x, y: 1 - piq.haarpsi(x, y),
    "MDSI": piq.mdsi,
    "FSIM": lambda x, y: 1 - piq.fsim(x, y),
}
PEERS: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "PSNR": lambda x, y: -piq.psnr(x, y),
    "SSIM": lambda x, y: 1 - piq.ssim(x, y),
    "MS-SSIM": lambda x, y: 1 - piq.multi_scale_ssim(x, y),
    "VIFp": lambda x, y: 1 - piq.vif_p(x, y),
}
GABOR = "gabor"
SCALES = "gabor without lowpass"
PLAIN = "the same, not normalised"
RGB_TO_YCBCR = np.array([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]])
Distortion = Callable[[np.ndarray, float, np.random.Generator], np.ndarray]


@click.command()
@click.option(
    "--images", type=click.Path(exists=True, file_okay=False, path_type=Path), help="Folder of PNGs."
)
@click.option(
    "--split",
    type=click.Choice(["held-out", "tuning", "all"]),
    default="held-out",
    show_default=True,
    help="Every second image in name order from the second on, from the first on, or all. The constants of "
    "the backbone were tuned on the first, third, ... Kodak image.",
)
@click.option("--crop", default=384, show_default=True, help="Side of a central crop; 0: the whole image.")
@click.option("--threads", default=1, show_default=True, help="CPU threads for torch.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Also write the figures here.")
def main(images: Path | None, split: str, crop: int, threads: int, json_path: Path | None) -> None:
    """Print the rank correlation of gabor and other metrics with HaarPSI, MDSI and FSIM."""
    console = Console()
    if images is None and not KODAK.is_dir():
        console.print(f"Skipped: no Kodak photographs at {KODAK}; name a folder of PNG files with --images.")
        return
    paths = sorted((images or KODAK).glob("*.png"))
    paths = {"all": paths, "tuning": paths[::2], "held-out": paths[1::2]}[split]
    if not paths:
        raise click.ClickException(f"--images: expected PNG files for the split {split!r}, found none")
    torch.set_num_threads(threads)
    started = time.perf_counter()
    scores = measure(paths, crop, console)
    agreement = {}
    for group, kinds in GROUPS.items():
        chosen = np.tile(np.repeat([kind in kinds for kind in DISTORTIONS], STRENGTHS), len(paths))
        agreement[group] = agreements({name: np.array(values)[chosen] for name, values in scores.items()})
        title = f"{group}: SROCC over {chosen.sum()} pairs, {len(paths)} images"
        console.print(agreement_table(agreement[group], title))
    elapsed, machine = time.perf_counter() - started, platform.processor() or platform.machine()
    console.print(f"{elapsed:.0f} s, {threads} thread(s), {machine}, torch {torch.__version__}")
    if json_path:
        report = {"images": [path.name for path in paths], "split": split, "crop": crop, "srocc": agreement}
        json_path.write_text(json.dumps(report, indent=2) + "\n")


@torch.inference_mode()
def measure(paths: list[Path], crop: int, console: Console) -> dict[str, list[float]]:
    """Every metric's score of every pair; larger is worse."""
    full, plain = build_gabor(dict.fromkeys(GABOR_TAPS)), build_gabor(dict.fromkeys(GABOR_SCALES))
    without_normalisation(plain)
    metrics = {**PEERS, **PROXIES}
    scores: dict[str, list[float]] = {name: [] for name in (GABOR, SCALES, PLAIN, *metrics)}
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("pairs", total=len(paths) * len(DISTORTIONS) * STRENGTHS)
        for number, path in enumerate(paths):
            image = load(path, crop)
            reference = to_tensor(image)
            features, plain_features = full(reference), plain(reference)
            for distorted in map(to_tensor, distort(image, seed=number)):
                taps = tap_distances(features, full(distorted))
                scores[GABOR].append(mean(taps.values()))
                scores[SCALES].append(mean(taps[tap] for tap in GABOR_SCALES))
                scores[PLAIN].append(mean(tap_distances(plain_features, plain(distorted)).values()))
                for name, metric in metrics.items():
                    scores[name].append(float(metric(reference, distorted)))
                progress.advance(task)
    return scores


def tap_distances(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> dict[str, float]:
    """Mean squared difference of the features of each tap (Tariq et al. 2020, Eq. 1)."""
    return {tap: float((first[tap] - second[tap]).square().mean()) for tap in first}


def without_normalisation(network: GaborNetwork) -> None:
    """Leave the rectified bank alone: with a semi-saturation above any contrast, responses are linear."""
    for scale in network.scales:
        scale.saturation.fill_(1e3)


def agreements(scores: dict[str, np.ndarray]) -> dict[str, dict[str, float]]:
    """SROCC of each metric with each proxy and with the mean of the proxies' ranks."""
    ranks = {name: rankdata(values) for name, values in scores.items()}
    targets = {name: ranks[name] for name in PROXIES}
    targets["mean rank"] = rankdata(np.mean([ranks[name] for name in PROXIES], axis=0))
    return {
        name: {target: float(np.corrcoef(ranks[name], values)[0, 1]) for target, values in targets.items()}
        for name in scores
    }


def agreement_table(agreement: dict[str, dict[str, float]], title: str) -> Table:
    table = Table(title=title)
    table.add_column("metric")
    for target in next(iter(agreement.values())):
        table.add_column(target, justify="right")
    for name, row in agreement.items():
        table.add_row(name, *(f"{value:.3f}" for value in row.values()), end_section=name == [*PEERS][-1])
    return table


def distort(image: np.ndarray, seed: int) -> Iterator[np.ndarray]:
    """All distortions of an image at all strengths, rounded to 8 bits."""
    for kind, (function, strengths) in enumerate(DISTORTIONS.values()):
        for level, strength in enumerate(strengths):
            rng = np.random.default_rng([seed, kind, level])
            yield to_bytes(function(image, strength, rng)) / 255


def load(path: Path, crop: int) -> np.ndarray:
    image = np.asarray(Image.open(path).convert("RGB")) / 255
    if crop:
        top, left = ((side - crop) // 2 for side in image.shape[:2])
        image = image[max(top, 0) :, max(left, 0) :][:crop, :crop]
    return image


def to_tensor(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(image).permute(2, 0, 1)[None].float()


def to_bytes(image: np.ndarray) -> np.ndarray:
    return np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)


def blur(image: np.ndarray, sigma: float, rng: np.random.Generator) -> np.ndarray:
    return gaussian_filter(image, (sigma, sigma, 0), mode="nearest")


def white_noise(image: np.ndarray, deviation: float, rng: np.random.Generator) -> np.ndarray:
    return image + rng.normal(0, deviation, image.shape)


def chroma_noise(image: np.ndarray, deviation: float, rng: np.random.Generator) -> np.ndarray:
    noise = rng.normal(0, deviation, (*image.shape[:2], 2))
    return image + noise @ np.array([[0, -0.344, 1.772], [1.402, -0.714, 0]])  # Cb and Cr to RGB


def coarse_noise(image: np.ndarray, deviation: float, rng: np.random.Generator) -> np.ndarray:
    noise = gaussian_filter(rng.normal(0, 1, image.shape), (2, 2, 0))
    return image + deviation * noise / noise.std()


def impulse_noise(image: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    draw = rng.random(image.shape)
    return np.where(draw < share / 2, 0, np.where(draw < share, 1, image))


def jpeg(image: np.ndarray, quality: float, rng: np.random.Generator) -> np.ndarray:
    return _encoded(image, format="JPEG", quality=int(quality))


def jpeg2000(image: np.ndarray, ratio: float, rng: np.random.Generator) -> np.ndarray:
    return _encoded(image, format="JPEG2000", quality_mode="rates", quality_layers=[ratio], irreversible=True)


def resample(image: np.ndarray, factor: float, rng: np.random.Generator) -> np.ndarray:
    return _down_up(image, factor, Image.Resampling.BICUBIC, Image.Resampling.BICUBIC)


def mosaic(image: np.ndarray, factor: float, rng: np.random.Generator) -> np.ndarray:
    return _down_up(image, factor, Image.Resampling.BOX, Image.Resampling.NEAREST)


def contrast(image: np.ndarray, factor: float, rng: np.random.Generator) -> np.ndarray:
    return image.mean() + (image - image.mean()) * factor


def saturation(image: np.ndarray, factor: float, rng: np.random.Generator) -> np.ndarray:
    grey = (image @ np.array([0.299, 0.587, 0.114]))[..., None]
    return grey + (image - grey) * factor


def posterise(image: np.ndarray, levels: float, rng: np.random.Generator) -> np.ndarray:
    return np.rint(image * (levels - 1)) / (levels - 1)


def hue(image: np.ndarray, degrees: float, rng: np.random.Generator) -> np.ndarray:
    luma, cb, cr = np.moveaxis(image @ RGB_TO_YCBCR.T, -1, 0)
    cosine, sine = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    turned = np.stack([luma, cosine * cb - sine * cr, sine * cb + cosine * cr], axis=-1)
    return turned @ np.linalg.inv(RGB_TO_YCBCR).T


def colour_cast(image: np.ndarray, amount: float, rng: np.random.Generator) -> np.ndarray:
    angle = rng.uniform(0, 2 * np.pi)
    return image + np.linalg.inv(RGB_TO_YCBCR) @ [0, amount * np.cos(angle), amount * np.sin(angle)]


def white_balance(image: np.ndarray, amount: float, rng: np.random.Generator) -> np.ndarray:
    return image * [1 + amount, 1, 1 - amount]


def sharpen(image: np.ndarray, amount: float, rng: np.random.Generator) -> np.ndarray:
    return image + amount * (image - blur(image, 1.5, rng))


def _encoded(image: np.ndarray, **options: object) -> np.ndarray:
    stream = io.BytesIO()
    Image.fromarray(to_bytes(image)).save(stream, **options)
    return np.asarray(Image.open(stream).convert("RGB")) / 255


def _down_up(image: np.ndarray, factor: float, down: int, up: int) -> np.ndarray:
    full = Image.fromarray(to_bytes(image))
    small = full.resize((round(full.width / factor), round(full.height / factor)), down)
    return np.asarray(small.resize(full.size, up)) / 255


DISTORTIONS: dict[str, tuple[Distortion, list[float]]] = {
    "blur": (blur, [0.6, 1, 1.6, 2.5, 4]),
    "white noise": (white_noise, [0.01, 0.02, 0.04, 0.08, 0.16]),
    "chroma noise": (chroma_noise, [0.01, 0.03, 0.06, 0.12, 0.24]),
    "coarse noise": (coarse_noise, [0.01, 0.02, 0.04, 0.07, 0.12]),
    "impulse noise": (impulse_noise, [0.001, 0.005, 0.02, 0.06, 0.15]),
    "JPEG": (jpeg, [80, 50, 28, 14, 6]),
    "JPEG 2000": (jpeg2000, [12, 24, 48, 96, 180]),
    "down and up": (resample, [1.5, 2, 3, 4, 6]),
    "mosaic": (mosaic, [2, 3, 4, 6, 8]),
    "contrast": (contrast, [0.85, 0.7, 0.55, 0.4, 1.4]),
    "saturation": (saturation, [0.7, 0.4, 0.1, 1.5, 2]),
    "posterise": (posterise, [24, 14, 9, 6, 4]),
    "sharpen": (sharpen, [0.4, 0.8, 1.5, 2.5, 4]),
    "hue": (hue, [5, 10, 20, 40, 80]),
    "colour cast": (colour_cast, [0.01, 0.02, 0.04, 0.08, 0.14]),
    "white balance": (white_balance, [0.03, 0.06, 0.12, 0.2, -0.12]),
}
STRENGTHS = 5
GLOBAL_COLOUR = ("hue", "colour cast", "white balance")
GROUPS = {
    "all": tuple(DISTORTIONS),
    "without global colour": tuple(kind for kind in DISTORTIONS if kind not in GLOBAL_COLOUR),
    "saturation and global colour": ("saturation", *GLOBAL_COLOUR),
}
"""Distortions over which pairs are pooled."""


if __name__ == "__main__":
    main()
