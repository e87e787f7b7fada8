"""Requests of the V2 protocol in JSON, taken apart in a process of their own.

A parser of JSON holds Python's lock until it is done, a second for a large image, in whatever thread it runs:
the server would answer nothing meanwhile, not even that it lives. As a program, this module reads requests
from standard input and writes tensors to standard output.
"""

from __future__ import annotations

import contextlib
import json
import math
import subprocess
import sys
import threading
import zlib
from typing import IO, Any

import numpy as np

TYPES: dict[str, np.dtype[Any]] = {"FP32": np.dtype(np.float32), "UINT8": np.dtype(np.uint8)}
#: Of a request without the values of its tensors, which the server itself reads.
MAX_REST_BYTES = 1 << 20

#: For each input in turn its array, or what is wrong with its values.
Values = list[np.ndarray | str]


class RequestError(Exception):
    """What a client got wrong, and the status of HTTP that says so."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class TensorReader:
    """The other process, which is started again if it ends.

    Args:
        largest: most bytes of a request once it is unpacked.

    Its methods may be called from several threads; one request is read at a time.
    """

    def __init__(self, largest: int) -> None:
        self._command = (sys.executable, "-m", "pe_runtime.serve_tensors", str(largest))
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def read(self, body: bytes, *, gzip: bool) -> tuple[bytes, Values]:
        """A request without the values of its tensors, and these.

        Raises:
            RequestError: it is no JSON, or too much of it.
            RuntimeError: the other process ended, of which a lack of memory is the most likely cause.
        """
        with self._lock:
            if self._process is None or self._process.poll() is not None:
                # Not of the terminal's process group: an interrupt there is for the server, which then closes
                # the pipe.
                self._process = subprocess.Popen(
                    self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
                )
            to_process, from_process = self._process.stdin, self._process.stdout
            assert to_process is not None
            assert from_process is not None
            try:
                to_process.write(len(body).to_bytes(8, "little") + bytes([gzip]))
                to_process.write(body)
                to_process.flush()
                return _read_answer(from_process)
            except (OSError, EOFError) as error:
                self._process.kill()
                self._process.wait()
                self._process = None
                raise RuntimeError("the process that reads requests ended") from error


def _read_answer(file: IO[bytes]) -> tuple[bytes, Values]:
    about = json.loads(_read_block(file))
    if "error" in about:
        raise RequestError(about["status"], about["error"])
    rest = _read_block(file)
    values: Values = []
    for described in about["values"]:
        if isinstance(described, str):
            values.append(described)
        else:
            kind, shape = described
            values.append(np.frombuffer(_read_block(file), dtype=kind).reshape(shape))
    return rest, values


def _read_block(file: IO[bytes]) -> bytes:
    length = file.read(8)
    data = file.read(int.from_bytes(length, "little"))
    if len(length) < 8 or len(data) < int.from_bytes(length, "little"):
        raise EOFError
    return data


def main(largest: int, requests: IO[bytes], answers: IO[bytes]) -> None:
    """Read requests, one after the other, until there are no more."""
    while header := requests.read(9):
        body = requests.read(int.from_bytes(header[:8], "little"))
        blocks: list[Any]
        try:
            rest, values = take_apart(unpacked(body, largest) if header[8] else body)
            about: dict[str, Any] = {
                "values": [v if isinstance(v, str) else (v.dtype.name, v.shape) for v in values]
            }
            blocks = [
                rest,
                *(value.reshape(-1).view(np.uint8) for value in values if isinstance(value, np.ndarray)),
            ]
        except RequestError as error:
            about, blocks = {"status": error.status, "error": str(error)}, []
        for block in (json.dumps(about).encode(), *blocks):
            answers.write(len(block).to_bytes(8, "little"))
            answers.write(block)
        answers.flush()


def unpacked(body: bytes, largest: int) -> bytes:
    """What a client has compressed by gzip.

    Raises:
        RequestError: damaged, or more than `largest` bytes.
    """
    unpacker = zlib.decompressobj(wbits=31)
    try:
        data = unpacker.decompress(body, largest + 1)
    except zlib.error as error:
        raise RequestError(422, f"body: expected gzip, as its Content-Encoding says: {error}") from None
    if len(data) > largest:
        raise RequestError(413, f"body: expected at most {largest} bytes, got more once it is unpacked")
    if not unpacker.eof:
        raise RequestError(422, "body: expected gzip, as its Content-Encoding says, got a part of it")
    return data


def take_apart(body: bytes) -> tuple[bytes, Values]:
    """A request without the values of its tensors, and these.

    What is no request otherwise is left to the server, which knows the protocol.

    Raises:
        RequestError: no JSON, or more than 1 MiB beside the values.
    """
    import orjson

    try:
        request = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise RequestError(422, f"body: expected JSON: {error}") from None
    values: Values = []
    inputs = request.get("inputs") if isinstance(request, dict) else None
    for tensor in inputs if isinstance(inputs, list) else ():
        if isinstance(tensor, dict) and isinstance(tensor.get("data"), list):
            values.append(_value(tensor))
            tensor["data"] = []
        elif isinstance(tensor, dict) and "data" in tensor:
            values.append(_value(tensor))
        else:
            values.append("inputs: expected tensors with values")
    try:
        rest = orjson.dumps(request)
    except orjson.JSONEncodeError as error:  # it writes fewer levels than it reads
        raise RequestError(422, f"body: expected JSON of fewer levels: {error}") from None
    if len(rest) > MAX_REST_BYTES:
        raise RequestError(
            413,
            f"body: expected at most {MAX_REST_BYTES} bytes beside the values, got {len(rest)}",
        )
    return rest, values


def _value(tensor: dict[str, Any]) -> np.ndarray | str:
    name, datatype, shape = tensor.get("name"), tensor.get("datatype"), tensor.get("shape")
    if not isinstance(datatype, str) or datatype not in TYPES:
        return f"{name}: expected datatype {' or '.join(TYPES)}"
    if not isinstance(shape, list) or not all(type(size) is int for size in shape):
        return f"{name}: expected a shape of integers"
    try:
        return to_array(str(name), datatype, shape, tensor["data"])
    except ValueError as error:
        return str(error)


def to_array(name: str, datatype: str, shape: list[int], data: Any) -> np.ndarray:
    """The values of a tensor, flat or nested.

    Raises:
        ValueError: not as many numbers as the shape says, something else than numbers, or out of range.
    """
    kind, count = TYPES[datatype], math.prod(shape)
    try:
        values = np.asarray(data)
    except (ValueError, TypeError, OverflowError):  # lists of lists of unlike length
        raise ValueError(f"{name}: expected numbers, as many in each row") from None
    # Before the conversion, which would round fractions, wrap around, and read numbers from texts.
    wanted, names = ("iu", "integers") if kind == np.uint8 else ("iuf", "numbers")
    if values.size != count:
        raise ValueError(f"{name}: expected {count} values, as its shape says, got {values.size}")
    if values.dtype.kind not in wanted:
        raise ValueError(f"{name}: expected {names}, got something else among its values")
    if kind == np.uint8 and values.size and not (values.min() >= 0 and values.max() <= 255):
        raise ValueError(f"{name}: expected values in [0, 255], got {values.min()} to {values.max()}")
    with np.errstate(over="ignore"):  # a float64 that becomes infinity is refused with the other ranges
        return np.ascontiguousarray(values.astype(kind, order="C").reshape(shape))


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError, KeyboardInterrupt):
        main(int(sys.argv[1]), sys.stdin.buffer, sys.stdout.buffer)
