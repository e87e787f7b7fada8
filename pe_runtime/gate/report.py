"""The verdict on all pairs: as a table, as JSON, as CSV."""

from __future__ import annotations

import csv
import io
import json
import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, TextIO

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from pe_runtime import __version__
from pe_runtime.atomic import atomic_path
from pe_runtime.gate.run import ERROR, FAIL, PASS, Result

EXIT_CODES = {PASS: 0, FAIL: 1, ERROR: 2}

_STYLES = {PASS: "green", FAIL: "red", ERROR: "yellow"}
_WIDEST = 100_000
_CSV_COLUMNS = (
    "name",
    "reference",
    "candidate",
    "verdict",
    "score",
    "threshold",
    "width",
    "height",
    "error",
    "warnings",
    "map",
)


@dataclass
class Report:
    """What the gate found.

    Attributes:
        settings: how it was asked to judge, JSON-able.
        metric: path, SHA-256 and metadata of the metric, JSON-able; None if it could not be read.
        threshold: the largest score that passes; None if unknown.
        results: one per pair.
        skipped: files in no pair, each with the reason.
        error: why nothing could be judged at all.
    """

    settings: dict[str, Any] = field(default_factory=dict)
    metric: dict[str, Any] | None = None
    threshold: float | None = None
    results: list[Result] = field(default_factory=list)
    skipped: tuple[str, ...] = ()
    error: str | None = None

    @property
    def verdict(self) -> str:
        """ "pass" only if there is a pair and each passed; "error" if anything could not be judged."""
        verdicts = {result.verdict for result in self.results}
        if self.error is not None or not verdicts or ERROR in verdicts:
            return ERROR
        return PASS if verdicts == {PASS} else FAIL

    @property
    def exit_code(self) -> int:
        """0 all pass, 1 some fail, 2 could not judge."""
        return EXIT_CODES[self.verdict]

    def as_dict(self) -> dict[str, Any]:
        """The JSON report (its schema is in docs/gate.md)."""
        counts = Counter(result.verdict for result in self.results)
        return {
            "format": 1,
            "pe_runtime": __version__,
            "verdict": self.verdict,
            "exit_code": self.exit_code,
            "error": self.error,
            "metric": self.metric,
            "threshold": self.threshold,
            "settings": self.settings,
            "counts": {
                "pairs": len(self.results),
                "passed": counts[PASS],
                "failed": counts[FAIL],
                "errors": counts[ERROR],
            },
            "results": [_as_dict(result) for result in self.results],
            "skipped": list(self.skipped),
        }

    def to_json(self) -> str:
        """The JSON report as text, one final newline, ASCII only."""
        return json.dumps(self.as_dict(), indent=2, allow_nan=False) + "\n"

    def to_csv(self) -> str:
        """One line per pair, after a line of column names; no line for an error that precedes all pairs."""
        text = io.StringIO()
        writer = csv.DictWriter(text, _CSV_COLUMNS, lineterminator="\n")
        writer.writeheader()
        for result in self.results:
            row = _as_dict(result) | {"threshold": self.threshold, "warnings": "; ".join(result.warnings)}
            writer.writerow({column: row[column] for column in _CSV_COLUMNS})
        # File names that are not valid text come as lone surrogates, which UTF-8 refuses.
        return text.getvalue().encode("utf-8", "backslashreplace").decode("utf-8")

    def print_table(self, file: TextIO, *, by_name: bool = False, only_bad: bool = False) -> None:
        """Print a line for each pair and one that sums up.

        Args:
            file: where to print. In what is no terminal, lines are as wide as they need to be.
            by_name: in the order of names; otherwise errors first, then the worst score first.
            only_bad: leave out pairs that passed without a warning.
        """
        rows = [r for r in self.results if not only_bad or r.verdict != PASS or r.warnings]
        if not by_name:
            rows.sort(key=lambda r: (r.verdict != ERROR, -(r.score or 0.0), r.name))
        console = Console(file=file)
        if rows:
            table = _table(rows, self.threshold, console.encoding)
            if not console.is_terminal:
                console.width = _WIDEST
                console.width = Measurement.get(console, console.options, table).maximum
            console.print(table)
        console.print(Text(self.summary()), soft_wrap=True)

    def summary(self) -> str:
        """One line: how many pairs passed, failed, could not be judged."""
        counts = Counter(result.verdict for result in self.results)
        pairs = "1 pair" if len(self.results) == 1 else f"{len(self.results)} pairs"
        return (
            f"{self.verdict.upper()}: {pairs}, {counts[PASS]} passed, "
            f"{counts[FAIL]} failed, {counts[ERROR]} could not be judged"
        )


def write_text(text: str, path: str | os.PathLike[str]) -> None:
    """Write a report to a file, whole or not at all, as UTF-8.

    Raises:
        OSError: it cannot be written.
    """
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="")


def printable(text: str, encoding: str = "utf-8") -> str:
    """Text with what a terminal cannot show, or would obey, written as escapes.

    File names may hold anything: control sequences, lone surrogates, letters that the terminal's
    encoding lacks.
    """
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
    return shown.encode(encoding, "backslashreplace").decode(encoding)


def _table(rows: Iterable[Result], threshold: float | None, encoding: str) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("pair", overflow="fold")
    table.add_column("score", justify="right", no_wrap=True)
    table.add_column("threshold", justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    table.add_column("remarks", overflow="fold")
    for row in rows:
        remarks = [*([row.error] if row.error else []), *row.warnings]
        table.add_row(
            Text(printable(row.name, encoding)),
            # Nine digits tell any two float32 apart: a score never looks equal to a threshold it exceeds.
            "" if row.score is None else f"{row.score:.9g}",
            "" if threshold is None else f"{threshold:.9g}",
            Text(row.verdict, style=_STYLES[row.verdict]),
            Text(printable("; ".join(remarks), encoding)),
        )
    return table


def _as_dict(result: Result) -> dict[str, Any]:
    return {
        "name": result.name,
        "reference": _text(result.reference),
        "candidate": _text(result.candidate),
        "verdict": result.verdict,
        "score": result.score,
        "width": result.width,
        "height": result.height,
        "error": result.error,
        "warnings": list(result.warnings),
        "map": _text(result.map),
    }


def _text(path: os.PathLike[str] | None) -> str | None:
    return None if path is None else os.fspath(path)
