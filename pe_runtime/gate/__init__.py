"""Verdicts on pairs of image files by an exported metric. Imports neither torch nor torchvision."""

from pe_runtime.gate.images import DEFAULT_BACKGROUND, Image, as_float, parse_background, read_image
from pe_runtime.gate.judge import Judge, Verdict
from pe_runtime.gate.metric_file import MetricFile, read_metric
from pe_runtime.gate.pairs import Pair, Pairing, find_pairs
from pe_runtime.gate.report import Report
from pe_runtime.gate.run import Result, judge_pairs

__all__ = [
    "DEFAULT_BACKGROUND",
    "Image",
    "Judge",
    "MetricFile",
    "Pair",
    "Pairing",
    "Report",
    "Result",
    "Verdict",
    "as_float",
    "find_pairs",
    "judge_pairs",
    "parse_background",
    "read_image",
    "read_metric",
]
