"""A metric under MLServer: the runtime class that `pe-runtime export mlserver` names in model-settings.json.

Needs the extra `serve`. The protocol is the V2 Open Inference protocol, over HTTP (JSON) and gRPC.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

import numpy as np
from mlserver import MLModel
from mlserver.errors import InferenceError, MLServerError
from mlserver.types import InferenceRequest, InferenceResponse, RequestInput, ResponseOutput
from mlserver.utils import get_model_uri

from pe_runtime.scorer import MAX_PIXELS, Scorer
from pe_runtime.serve_limits import TENSORS
from pe_runtime.serve_tensors import TYPES, Values, to_array

_T = TypeVar("_T")
_NAMES = {dtype: name for name, dtype in TYPES.items()} | {np.dtype(np.bool_): "BOOL"}
_SETTINGS = {"threads": 0, "concurrency": 1, "max_pixels": MAX_PIXELS, "provider": "cpu"}


class MetricRuntime(MLModel):
    """Inputs `reference` and `distorted`; outputs `score`, and `map` and `verdict` where the metric has them.

    Settings, under `parameters.extra` of model-settings.json:
        threads: threads of ONNX Runtime for one request; 0: one per core.
        concurrency: requests scored at the same time; others wait.
        max_pixels: most pixels, batch x height x width, of a request.
        provider: where ONNX Runtime computes, "cpu" or "cuda".

    What a request gets wrong ends in status 400 (gRPC: INVALID_ARGUMENT) and an error that names the tensor;
    status 500 means that the metric failed.
    """

    async def load(self) -> bool:
        """Load the metric that `parameters.uri` names."""
        if self.settings.max_batch_size > 1:
            raise ValueError("max_batch_size: expected 0, because images of unlike sizes would be mixed up")
        settings = _checked_settings(self.settings.parameters.extra if self.settings.parameters else None)
        path = await get_model_uri(self.settings)
        self._executor = ThreadPoolExecutor(settings.pop("concurrency"), thread_name_prefix="metric")
        # Off the event loop, as is all below that takes longer than a glance: it also answers health checks.
        self._scorer = await asyncio.to_thread(partial(Scorer, path, **settings))
        return True

    async def unload(self) -> bool:
        """Wait for the requests that are being scored, and let go of the metric."""
        await asyncio.to_thread(self._executor.shutdown)
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Score the pairs of one request."""
        return await _with_status(self._answer(payload))

    async def _answer(self, payload: InferenceRequest) -> InferenceResponse:
        outputs = self._scorer.check_outputs([output.name for output in payload.outputs or ()] or None)
        images = await asyncio.to_thread(self._decode, payload.inputs, TENSORS.get())
        run: Callable[[], dict[str, np.ndarray]] = partial(self._scorer.score, **images, outputs=outputs)
        values = await asyncio.get_running_loop().run_in_executor(self._executor, run)
        return await asyncio.to_thread(self._encode, values)

    def _decode(self, inputs: list[RequestInput], values: Values | None) -> dict[str, np.ndarray]:
        names = sorted(tensor.name for tensor in inputs)
        if names != ["distorted", "reference"]:
            raise ValueError(f"inputs: expected reference and distorted, got {', '.join(names) or 'none'}")
        expected = _NAMES[np.dtype(self._scorer.metric.input_type)]
        for tensor in inputs:
            if tensor.datatype != expected:
                raise ValueError(f"{tensor.name}: expected datatype {expected}, got {tensor.datatype}")
            self._scorer.check_shape(tensor.name, tensor.shape)
        if values is None:  # over gRPC
            values = [_to_array(tensor) for tensor in inputs]
        images = {}
        for tensor, value in zip(inputs, values, strict=True):
            if isinstance(value, str):
                raise ValueError(value)
            images[tensor.name] = value
        return images

    def _encode(self, values: dict[str, np.ndarray]) -> InferenceResponse:
        outputs = [
            ResponseOutput(
                name=name, datatype=_NAMES[value.dtype], shape=list(value.shape), data=value.ravel().tolist()
            )
            for name, value in values.items()
        ]
        return InferenceResponse(model_name=self.name, model_version=self.version, outputs=outputs)


async def _with_status(answer: Awaitable[_T]) -> _T:
    """The answer, or an error with the status of whose fault it is."""
    try:
        return await answer
    except (ValueError, TypeError) as error:
        raise InferenceError(str(error)) from error
    except RuntimeError as error:
        raise MLServerError(str(error), 500) from error


def _to_array(tensor: RequestInput) -> np.ndarray:
    return to_array(tensor.name, tensor.datatype, tensor.shape, getattr(tensor.data, "root", tensor.data))


def _checked_settings(given: dict[str, Any] | None) -> dict[str, Any]:
    given = given or {}
    unknown = sorted(set(given) - set(_SETTINGS))
    if unknown:
        raise ValueError(f"parameters.extra: expected among {', '.join(_SETTINGS)}, got {unknown[0]!r}")
    settings = _SETTINGS | given
    for name, default in _SETTINGS.items():
        if type(settings[name]) is not type(default):
            raise ValueError(
                f"{name}: expected {'a text' if isinstance(default, str) else 'an integer'}, "
                f"got {settings[name]!r}"
            )
    return settings
