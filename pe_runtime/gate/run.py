"""Many pairs: decoded in parallel, judged one by one, each with a result of its own."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from pe_runtime.gate.images import DEFAULT_BACKGROUND, RGB, Image, read_pair
from pe_runtime.gate.judge import Judge
from pe_runtime.gate.maps import write_map
from pe_runtime.gate.pairs import Pair

PASS, FAIL, ERROR = "pass", "fail", "error"


@dataclass(frozen=True)
class Result:
    """What came of one pair.

    Attributes:
        name: the pair's name.
        reference: its files; None where missing.
        candidate: see above.
        verdict: "pass", "fail", or "error" where the pair could not be judged.
        score: None on error.
        width: of both images, upright, in pixels; None on error.
        height: see above.
        error: why there is no score.
        warnings: what was done to the images, or found in them, that the caller may not expect.
        map: the file that the difference map was written to.
    """

    name: str
    reference: Path | None
    candidate: Path | None
    verdict: str
    score: float | None = None
    width: int | None = None
    height: int | None = None
    error: str | None = None
    warnings: tuple[str, ...] = ()
    map: Path | None = None


def judge_pairs(
    judge: Judge,
    pairs: Iterable[Pair],
    *,
    background: RGB = DEFAULT_BACKGROUND,
    jobs: int = 0,
    maps: str | os.PathLike[str] | None = None,
    map_max: float | None = None,
    strict: bool = False,
) -> Iterator[Result]:
    """Judge pairs in order. A pair that cannot be judged gives an error and does not stop the others.

    Args:
        judge: the metric, the threshold, and what becomes of colours that are described differently; made
            with maps=True where `maps` is given.
        pairs: what to judge; one-sided pairs are errors.
        background: 8-bit RGB behind transparent pixels.
        jobs: threads that decode files; 0 is one per core, at most 8. At most jobs + 1 pairs are held in
            memory beside the one being judged.
        maps: directory for difference maps, each NAME.png.
        map_max: the map value at the top of the colour scale, needed with `maps`.
        strict: a pair with warnings is an error.

    Yields:
        One result per pair, in the order of the pairs.

    Raises:
        ValueError: jobs is negative.
        OSError: a map cannot be written.
    """
    if jobs < 0:
        raise ValueError(f"jobs: expected 0 (one per core) or more, got {jobs}")
    jobs = jobs or min(os.cpu_count() or 1, 8)
    remaining = iter(pairs)
    pool = ThreadPoolExecutor(jobs, thread_name_prefix="decode")
    try:
        waiting: deque[tuple[Pair, Future[_Decoded]]] = deque(
            (pair, pool.submit(_decode, pair, background, judge.colour))
            for pair in islice(remaining, jobs + 1)
        )
        while waiting:
            pair, decoding = waiting.popleft()
            result = _judge(judge, pair, decoding, maps, map_max, strict)
            del decoding  # it holds the pixels
            yield result
            for following in islice(remaining, 1):
                waiting.append((following, pool.submit(_decode, following, background, judge.colour)))
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


@dataclass(frozen=True)
class _Decoded:
    reference: Image
    candidate: Image
    warnings: tuple[str, ...]


def _decode(pair: Pair, background: RGB, colour: str) -> _Decoded:
    if pair.reference is None:
        raise ValueError(f"reference: expected a file for candidate {pair.candidate}, got none")
    if pair.candidate is None:
        raise ValueError(f"candidate: expected a file for reference {pair.reference}, got none")
    return _Decoded(*read_pair(pair.reference, pair.candidate, background=background, colour=colour))


def _judge(
    judge: Judge,
    pair: Pair,
    decoding: Future[_Decoded],
    maps: str | os.PathLike[str] | None,
    map_max: float | None,
    strict: bool,
) -> Result:
    try:
        images = decoding.result()
        verdict = judge.score(images.reference, images.candidate)
    except (ValueError, TypeError, OSError, MemoryError) as error:
        reason = str(error) or type(error).__name__
        return Result(pair.name, pair.reference, pair.candidate, ERROR, error=reason)
    warnings = images.warnings + verdict.warnings
    if strict and warnings:
        reason = f"--strict: {'; '.join(warnings)}"
        return Result(pair.name, pair.reference, pair.candidate, ERROR, error=reason, warnings=warnings)
    height, width = images.reference.pixels.shape[:2]
    written = None
    if maps is not None and verdict.map is not None and map_max is not None:
        written = Path(maps) / f"{pair.name}.png"
        write_map(verdict.map, written, width=width, height=height, top=map_max)
    return Result(
        name=pair.name,
        reference=pair.reference,
        candidate=pair.candidate,
        verdict=PASS if verdict.passed else FAIL,
        score=verdict.score,
        width=width,
        height=height,
        warnings=warnings,
        map=written,
    )
