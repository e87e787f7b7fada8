"""The NumPy module of the native kernels; `pe_runtime.arrays` is the public face of it."""

from collections.abc import Sequence
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

class SupportsDLPack(Protocol):
    """An array of another library, in the machine's memory."""

    def __dlpack__(self, *, stream: Any = ...) -> Any: ...

Array: TypeAlias = NDArray[Any] | SupportsDLPack
Vector: TypeAlias = Sequence[float] | Array
# log similarity and which row attains it, least distance of a row and which column has it, log Z, row sums
Statistics: TypeAlias = tuple[
    NDArray[Any], NDArray[np.int32], NDArray[Any], NDArray[np.int32], NDArray[Any], NDArray[Any]
]

def instruction_set() -> Literal["avx512", "avx2", "baseline"]: ...
def set_instruction_set(name: str) -> None: ...
def contextual(
    source: Array,
    target: Array,
    channels: Sequence[int] | Array | None = None,
    weights: Vector | None = None,
    bandwidth: float = 0.5,
    *,
    distance: str = "cosine",
    center: str = "sample",
    spatial_weight: float = 0.0,
    form: str = "log",
    eps: float = 1e-5,
    eps_log: float = 0.0,
    row_sums: bool = False,
    threads: int | None = None,
) -> tuple[NDArray[Any], Statistics]: ...
def contextual_backward(
    loss_gradient: Array | None,
    log_similarity_gradient: Array | None,
    source: Array,
    target: Array,
    statistics: Statistics,
    channels: Sequence[int] | Array | None = None,
    weights: Vector | None = None,
    bandwidth: float = 0.5,
    *,
    distance: str = "cosine",
    center: str = "sample",
    spatial_weight: float = 0.0,
    form: str = "log",
    eps: float = 1e-5,
    eps_log: float = 0.0,
    source_needed: bool = True,
    target_needed: bool = True,
    threads: int | None = None,
) -> tuple[NDArray[Any] | None, NDArray[Any] | None]: ...
def channel_distance(
    first: Array,
    second: Array,
    channels: Sequence[int] | Array | None = None,
    weights: Vector | None = None,
    linear: Vector | None = None,
    form: str = "squared",
    *,
    threads: int | None = None,
) -> tuple[NDArray[Any], NDArray[Any]]: ...
def channel_distance_backward(
    distance_gradient: Array | None,
    map_gradient: Array | None,
    first: Array,
    second: Array,
    channels: Sequence[int] | Array | None = None,
    weights: Vector | None = None,
    linear: Vector | None = None,
    form: str = "squared",
    *,
    first_needed: bool = True,
    second_needed: bool = True,
    threads: int | None = None,
) -> tuple[NDArray[Any] | None, NDArray[Any] | None]: ...
