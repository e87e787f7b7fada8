"""`pe-runtime gate`: judge image files by an exported metric."""

from __future__ import annotations

import math
import re
import sys
import traceback
import warnings
from pathlib import Path
from typing import Any, TextIO

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from pe_runtime.gate.colour import COLOURS
from pe_runtime.gate.images import parse_background
from pe_runtime.gate.judge import Judge
from pe_runtime.gate.pairs import find_pairs
from pe_runtime.gate.report import EXIT_CODES, Report, printable, write_text
from pe_runtime.gate.run import ERROR, judge_pairs

#: The map value at the top of the colour scale, in thresholds, unless --map-max says otherwise. Defects
#: are local: at their worst spot the map is several times its mean, which the score often is.
MAP_TOP_IN_THRESHOLDS = 10

#: The least top of the colour scale: less vanishes beside the values in float32.
LEAST_MAP_TOP = 1e-30

_MAP_MAX_EXPECTED = f"map-max: expected a number of at least {LEAST_MAP_TOP:g}"
_NUMBER = re.compile(r"\+?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?")
_FILE = click.Path(path_type=Path)
_OUTPUT = click.Path(path_type=Path, dir_okay=False, allow_dash=True)


@click.command()
@click.argument("reference", type=_FILE)
@click.argument("candidate", type=_FILE)
@click.option("--metric", type=_FILE, required=True, help="ONNX file written by pe-runtime export.")
@click.option(
    "--threshold",
    metavar="NUMBER",
    help="Largest score that passes.  [default: the one in the metric, if any]",
)
@click.option("--match-stem", is_flag=True, help="Pair by name without suffix: a.png with a.jpg.")
@click.option("--allow-missing", is_flag=True, help="Skip references that have no candidate.")
@click.option("--allow-extra", is_flag=True, help="Skip candidates that have no reference.")
@click.option(
    "--ignore",
    metavar="PATTERN",
    multiple=True,
    help="Skip files that match, by name or by path: '*.gif', 'drafts/*'. May be given several times.",
)
@click.option(
    "--strict", is_flag=True, help="Pairs with warnings, and files skipped unasked, cannot be judged."
)
@click.option(
    "--colour",
    type=click.Choice(COLOURS),
    default="srgb",
    show_default=True,
    help="Colours described differently: converted to sRGB by their ICC profiles, or compared as stored.",
)
@click.option(
    "--background",
    default="#808080",
    show_default=True,
    help="Colour behind transparent pixels, beside its opposite: a CSS name or #rrggbb.",
)
@click.option("--json", "json_path", type=_OUTPUT, help="Write the report as JSON; - is standard output.")
@click.option("--csv", "csv_path", type=_OUTPUT, help="Write the scores as CSV; - is standard output.")
@click.option("--maps", type=_FILE, help="Directory for difference maps, one PNG per pair.")
@click.option(
    "--map-max",
    metavar="NUMBER",
    help=f"Map value at the top of the colour scale.  [default: {MAP_TOP_IN_THRESHOLDS} x threshold]",
)
@click.option(
    "--sort",
    type=click.Choice(["score", "name"]),
    default="score",
    show_default=True,
    help="Order of the table; by score, errors and the worst come first.",
)
@click.option("--quiet", is_flag=True, help="No progress bar; the table has only failures, errors, warnings.")
@click.option(
    "--provider", default="cpu", show_default=True, help="Where ONNX Runtime computes: cpu, cuda, ..."
)
@click.option("--threads", type=int, default=0, help="Threads per score.  [default: one per core]")
@click.option(
    "--jobs", type=int, default=0, help="Pairs decoded at once.  [default: one per core, at most 8]"
)
def command(**options: Any) -> None:
    """Compare CANDIDATE with REFERENCE, two image files or two directories, by an exported metric.

    Files of directories are paired by relative name. PNG, JPEG, WebP, BMP and TIFF, 8 or 16 bits; images of
    other kinds cannot be judged, unless --ignore names them.

    Exit code: 0 all pairs passed (score <= threshold), 1 some failed, 2 something could not be judged.

    \b
    Example:
      pe-runtime gate renders/approved renders/new \\
          --metric metric.onnx --threshold 0.1 --ignore '*.gif' --strict --json report.json
    """
    code = EXIT_CODES[ERROR]
    try:
        code = _gate(**options)
    except click.ClickException:
        raise
    except (KeyboardInterrupt, click.Abort):
        click.echo("Error: interrupted, nothing is judged", err=True)
    except (ValueError, TypeError, OSError, ImportError) as error:
        click.echo(f"Error: {printable(str(error))}", err=True)
    except Exception:
        # A defect of the gate itself. Python's own exit code for it, 1, would say "some pairs failed".
        traceback.print_exc()
    sys.exit(code)


def _gate(**options: Any) -> int:
    json_path, csv_path = options["json_path"], options["csv_path"]
    outputs = [path for path in (json_path, csv_path) if path is not None]
    if len(outputs) == 2 and outputs[0] == outputs[1]:
        raise click.UsageError(f"--json and --csv: expected different files, got {json_path} for both.")
    # What Pillow warns of is either refused, with an error that names the file, or has no effect here.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    report = Report(
        settings={
            name: _as_setting(value)
            for name, value in sorted(options.items())
            if name not in ("metric", "threshold", "json_path", "csv_path", "sort", "quiet")
        }
        | {"map_max": None}
    )
    try:
        _judge(report, options)
    except (ValueError, TypeError, OSError, ImportError) as error:
        report.error = str(error)
    _write(report, options)
    return report.exit_code


def _as_setting(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    return list(value) if isinstance(value, tuple) else value


def _judge(report: Report, options: dict[str, Any]) -> None:
    threshold = _number(options["threshold"], "threshold: expected a finite number >= 0")
    report.settings["map_max"] = _number(options["map_max"], _MAP_MAX_EXPECTED, LEAST_MAP_TOP)
    maps, background = options["maps"], parse_background(options["background"])
    judge = Judge(
        options["metric"],
        threshold,
        maps=maps is not None,
        threads=options["threads"],
        provider=options["provider"],
        colour=options["colour"],
    )
    report.threshold = judge.threshold
    report.metric = {
        "path": str(options["metric"]),
        "sha256": judge.metric.sha256,
        "metadata": judge.metric.metadata,
    }
    pairing = find_pairs(
        options["reference"],
        options["candidate"],
        match_stem=options["match_stem"],
        allow_missing=options["allow_missing"],
        allow_extra=options["allow_extra"],
        ignore=options["ignore"],
    )
    report.skipped = pairing.skipped
    map_max = None
    if maps is not None:
        map_max = report.settings["map_max"] = _map_max(report.settings["map_max"], judge.threshold)
        _check_maps_elsewhere(maps, options["reference"], options["candidate"])
    results = judge_pairs(
        judge,
        pairing.pairs,
        background=background,
        jobs=options["jobs"],
        maps=maps,
        map_max=map_max,
        strict=options["strict"],
    )
    if options["quiet"] or not sys.stderr.isatty():
        report.results.extend(results)
    else:
        with _progress() as progress:
            report.results.extend(progress.track(results, total=len(pairing.pairs), description="judging"))
    if options["strict"] and pairing.unexpected:
        report.error = f"--strict: {pairing.unexpected} files skipped"


def _number(text: str | None, expected: str, least: float = 0.0) -> float | None:
    """A number as C and Python spell it alike: no sign but +, spaces, underscores, hexadecimal or inf."""
    if text is None:
        return None
    value = float(text) if _NUMBER.fullmatch(text) else math.nan
    # Written so that NaN is refused as well.
    if not least <= value < math.inf:
        raise ValueError(f"{expected}, got {text}")
    return value


def _map_max(given: float | None, threshold: float) -> float:
    top = MAP_TOP_IN_THRESHOLDS * threshold if given is None else given
    if top < LEAST_MAP_TOP or top == math.inf:
        raise ValueError(f"{_MAP_MAX_EXPECTED}, got {top:g}")
    return top


def _check_maps_elsewhere(maps: Path, reference: Path, candidate: Path) -> None:
    # The next run would take the maps for images without a counterpart.
    for name, images in (("reference", reference), ("candidate", candidate)):
        if images.is_dir() and maps.resolve().is_relative_to(images.resolve()):
            raise ValueError(f"maps: expected a directory outside {name} {images}, got {maps}")


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )


def _write(report: Report, options: dict[str, Any]) -> None:
    json_path, csv_path = options["json_path"], options["csv_path"]
    # Files first: they are wanted even where the terminal has gone away.
    for path, text in ((json_path, report.to_json()), (csv_path, report.to_csv())):
        if path is not None and str(path) != "-":
            write_text(text, path)
    table: TextIO = sys.stdout
    for path, text in ((json_path, report.to_json()), (csv_path, report.to_csv())):
        if path is not None and str(path) == "-":
            sys.stdout.buffer.write(text.encode())
            sys.stdout.flush()
            table = sys.stderr
    if report.skipped:
        click.echo(_skipped_note(report.skipped), err=True)
    if report.error is not None:
        click.echo(f"Error: {printable(report.error)}", err=True)
        if not report.results:
            return
    try:
        report.print_table(table, by_name=options["sort"] == "name", only_bad=options["quiet"])
    except SystemExit:  # rich's answer to a closed pipe, with an exit code that here means "some failed"
        raise BrokenPipeError("table: expected to be read to its end, got a closed pipe") from None
    if report.settings["map_max"] is not None and options["maps"] is not None:
        click.echo(
            f"Maps in {printable(str(options['maps']))}: viridis from 0 to {report.settings['map_max']:g}.",
            file=table,
        )
    table.flush()


def _skipped_note(skipped: tuple[str, ...]) -> str:
    shown = "".join(f"\n  {printable(line)}" for line in skipped[:10])
    more = f"\n  and {len(skipped) - 10} more (all are in the JSON report)" if len(skipped) > 10 else ""
    return f"Skipped {len(skipped)} files:{shown}{more}"
