"""What MLServer has no settings for: limits of requests over HTTP, so that no client keeps others waiting.

settings.json names `LimitedRepository`, with the limits as its arguments. Importing this module changes what
MLServer does for servers whose settings name that class, and for no others.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from functools import partial
from typing import Any

from mlserver.repository.repository import SchemalessModelRepository
from mlserver.rest.server import RESTServer
from uvicorn.protocols.http.h11_impl import H11Protocol

from pe_runtime.serve_tensors import RequestError, TensorReader, Values

_Message = MutableMapping[str, Any]
_Receive = Callable[[], Awaitable[_Message]]
_Send = Callable[[_Message], Awaitable[None]]
_App = Callable[[_Message, _Receive, _Send], Awaitable[None]]

#: Of requests that are not for scores.
MAX_OTHER_BYTES = 1 << 20
#: Bodies of the largest size that may be held at the same time; smaller ones, as many more.
HELD_BODIES = 4
_SCORES = ("/infer", "/infer_stream", "/generate", "/generate_stream")

#: The values of the tensors of the request that is being answered, which is passed on without them.
TENSORS: ContextVar[Values | None] = ContextVar("TENSORS", default=None)


class LimitedRepository(SchemalessModelRepository):
    """MLServer's own repository of models, and the limits of the server.

    Args:
        root: the folder with the models.
        max_body_bytes: most bytes of a request for scores, as sent and unpacked; more is answered by status
            413.
        read_seconds: how long a request may take to arrive; a slower one is answered by status 408 if its
            head is there, and its connection closed.
        queue: requests that wait or are scored at the same time; one more is answered by status 503.

    Raises:
        ValueError: a limit below 1.
    """

    def __init__(self, root: str, max_body_bytes: int, read_seconds: float, queue: int) -> None:
        super().__init__(root)
        limits = {"max_body_bytes": max_body_bytes, "read_seconds": read_seconds, "queue": queue}
        for name, value in limits.items():
            if not isinstance(value, int | float) or value < 1:
                raise ValueError(f"{name}: expected 1 or more, got {value!r}")


class _TimedProtocol(H11Protocol):
    """HTTP whose connections close if no request has come in time; uvicorn waits for its first for ever."""

    read_seconds = 60.0
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._arm()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        # A request that is being answered has a limit of its own; what follows an answer is timed from here.
        if self.cycle is not None and not self.cycle.response_complete:
            self._disarm()
        elif self._timer is None:
            self._arm()

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        super().connection_lost(exc)

    def _arm(self) -> None:
        self._timer = self.loop.call_later(self.read_seconds, self._close)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _close(self) -> None:
        self._timer = None
        if self.cycle is None or self.cycle.response_complete:
            self.transport.close()


class _Limits:
    """An application that reads and checks requests before MLServer's sees them."""

    def __init__(self, app: _App, *, max_body_bytes: int, read_seconds: float, queue: int) -> None:
        self._app, self._largest, self._seconds, self._queue = app, max_body_bytes, read_seconds, queue
        self._reader = TensorReader(max_body_bytes)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="requests")
        self._waiting = self._held = 0

    async def __call__(self, scope: _Message, receive: _Receive, send: _Send) -> None:
        if scope["type"] != "http" or scope["method"] in ("GET", "HEAD", "OPTIONS"):
            await self._app(scope, receive, send)
            return
        taken = [0]
        try:
            await self._answer(scope, receive, send, taken)
        except RequestError as error:
            await _refuse(send, error)
        finally:
            self._held -= taken[0]

    async def _answer(self, scope: _Message, receive: _Receive, send: _Send, taken: list[int]) -> None:
        headers = {name.lower(): value.decode("latin-1") for name, value in scope["headers"]}
        scores = scope["path"].endswith(_SCORES)
        gzip = _checked_headers(headers, scores)
        if scores:
            self._check_queue()
        largest = self._largest if scores else MAX_OTHER_BYTES
        try:
            body = await asyncio.wait_for(self._read(headers, receive, largest, taken), self._seconds)
        except TimeoutError:
            raise RequestError(408, f"body: expected within {self._seconds:g} seconds") from None
        if body is None:
            return
        if not scores:
            await self._app(scope, _replay(body, receive), send)
            return
        self._check_queue()
        self._waiting += 1
        try:
            read = partial(self._reader.read, body, gzip=gzip)
            del body
            rest, values = await asyncio.get_running_loop().run_in_executor(self._thread, read)
            del read
            TENSORS.set(values)
            await self._app(_with_length(scope, len(rest)), _replay(rest, receive), send)
        except RuntimeError as error:
            raise RequestError(500, str(error)) from error
        finally:
            self._waiting -= 1

    def _check_queue(self) -> None:
        if self._waiting >= self._queue:
            raise RequestError(503, f"server: expected at most {self._queue} requests at once; try again")

    async def _read(
        self, headers: dict[bytes, str], receive: _Receive, largest: int, taken: list[int]
    ) -> bytes | None:
        """The body of a request; None if the client has gone."""
        length = headers.get(b"content-length", "0")
        if int(length) > largest:
            raise RequestError(413, f"body: expected at most {largest} bytes, got {length}")
        body = bytearray()
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            part = message.get("body", b"")
            body += part
            taken[0] += len(part)
            self._held += len(part)
            if len(body) > largest:
                raise RequestError(413, f"body: expected at most {largest} bytes, got more")
            if self._held > HELD_BODIES * self._largest:
                raise RequestError(503, "server: expected fewer large requests at once; try again")
            if not message.get("more_body", False):
                return bytes(body)


def _checked_headers(headers: dict[bytes, str], scores: bool) -> bool:
    """Whether the body is packed by gzip."""
    encoding = headers.get(b"content-encoding", "identity").lower()
    if encoding not in (("identity", "gzip") if scores else ("identity",)):
        raise RequestError(415, f"body: expected no Content-Encoding or gzip, got {encoding}")
    kind = headers.get(b"content-type", "application/json").partition(";")[0].strip().lower()
    if scores and not (kind == "application/json" or kind.endswith("+json")):
        length = headers.get(b"content-length", "an unknown number of")
        raise RequestError(
            422, f"body: expected tensors in JSON (binary_data=False), got {length} bytes of {kind}"
        )
    return encoding == "gzip"


def _with_length(scope: _Message, length: int) -> _Message:
    changed = (b"content-length", b"content-encoding", b"transfer-encoding")
    kept = [(name, value) for name, value in scope["headers"] if name.lower() not in changed]
    return {**scope, "headers": [*kept, (b"content-length", str(length).encode())]}


def _replay(body: bytes, receive: _Receive) -> _Receive:
    """Messages of a request whose body has been read; then those that follow."""
    waiting = [{"type": "http.request", "body": body, "more_body": False}]

    async def next_message() -> _Message:
        return waiting.pop() if waiting else await receive()

    return next_message


async def _refuse(send: _Send, error: RequestError) -> None:
    body = json.dumps({"error": str(error)}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if error.status == 503:
        headers.append((b"retry-after", b"1"))
    if error.status == 408:
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


_config_of = RESTServer._get_config


def _limited_config(self: RESTServer) -> Any:
    config = _config_of(self)
    if self._settings.model_repository_implementation is LimitedRepository:
        limits = self._settings.model_repository_implementation_args
        config.app = _Limits(config.app, **limits)
        config.http = type("_Protocol", (_TimedProtocol,), {"read_seconds": limits["read_seconds"]})
    return config


RESTServer._get_config = _limited_config
