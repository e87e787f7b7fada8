"""ONNX Runtime with the package's operators: where their library is, and sessions that have it.

A file that `pe_runtime.export` wrote with fused operators (domain `pe_runtime`) also runs without the library
by the standard operators that it carries for that case: slower, and with more memory.
"""

from __future__ import annotations

import os
import re
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import onnxruntime

#: Of the operators in an ONNX graph.
DOMAIN = "pe_runtime"

#: The first version that checks the paths of weights in other files wherever a model may name them. The gate
#: refuses such models itself; earlier versions read any file, and any address, for one it would overlook.
OLDEST = (1, 27)

_LIBRARY = Path(__file__).parent / "libpe_runtime_ort.so"
_PROVIDER = "ExecutionProvider"


def ort_library_path() -> Path:
    """The library of the operators, for `SessionOptions.register_custom_ops_library` and for servers.

    It runs in ONNX Runtime 1.18 and later, on the CPU; `open_session` and the gate need 1.27.

    Raises:
        RuntimeError: the package was installed without it; the text says why.
    """
    if not _LIBRARY.exists():
        raise RuntimeError(
            f"pe_runtime was installed without its ONNX Runtime library, {_LIBRARY}: its build found no "
            "headers of ONNX Runtime"
        )
    return _LIBRARY


def open_session(
    model: str | os.PathLike[str] | bytes,
    *,
    threads: int = 0,
    provider: str = "cpu",
    fused: bool | str = "auto",
    name: str | None = None,
) -> onnxruntime.InferenceSession:
    """Open an ONNX file, with the package's operators where it uses them.

    Args:
        model: the file, or its bytes.
        threads: threads that one run computes with; 0 is one per core.
        provider: where it runs: "cpu", "cuda" or another of the execution providers of this ONNX Runtime.
        fused: "auto": with the library of the operators if the file uses them and the library is there; a
            library that cannot be loaded is a RuntimeWarning. True: it must be there. False: always without.
        name: what errors call the model; None: the file, or "model".

    Returns:
        The session. It may run in several threads at once.

    Raises:
        ValueError: no model that ONNX Runtime loads; an option out of its range; an unknown provider, or one
            that does not work on this machine.
        OSError: the file cannot be read.
        RuntimeError: fused=True, and the library is missing or cannot be loaded.
        ImportError: ONNX Runtime is older than 1.27.
        ModuleNotFoundError: it is not installed.
    """
    if threads < 0:
        raise ValueError(f"threads: expected 0 (one per core) or more, got {threads}")
    if fused not in (True, False, "auto"):
        raise ValueError(f"fused: expected 'auto', True or False, got {fused!r}")
    runtime = _onnxruntime()
    provider_name = _provider_name(runtime, provider)
    if not isinstance(model, bytes):
        name = name or os.fspath(model)
        # ONNX Runtime's error for a file that is not there is one of its own types.
        with Path(model).open("rb"):
            pass
        model = os.fspath(model)
    name = name or "model"
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4  # failures are raised; the log would repeat them on standard error
    options.enable_mem_pattern = False  # image sizes vary, and a plan is kept for each size
    # It would take bytes that begin in a certain way for its own format, whose weights may be in other files.
    options.add_session_config_entry("session.load_model_format", "ONNX")
    if fused is True or (fused == "auto" and _LIBRARY.exists() and _uses_operators(model, name)):
        _register(options, required=fused is True)
    # TF32 rounds to 10 bits, which would tie the score to the device.
    settings = {"use_tf32": "0"} if provider_name == "CUDAExecutionProvider" else {}
    try:
        session = runtime.InferenceSession(
            model, options, providers=[(provider_name, settings)], enable_fallback=0
        )
    except Exception as error:  # ONNX Runtime's exceptions share no base class of their own
        raise ValueError(f"{name}: expected a graph that ONNX Runtime loads: {_one_line(error)}") from error
    if provider_name not in session.get_providers():
        raise ValueError(f"provider: expected one that works on this machine, got {provider!r}")
    session.disable_fallback()
    return session


def _onnxruntime() -> Any:
    try:
        import onnxruntime
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            "onnxruntime: expected to be installed, by pip install 'pe_runtime[cpu]' or 'pe_runtime[gpu]'"
        ) from None
    # Versions of builds from source end in more than numbers.
    numbers = tuple(int(number) for number in re.findall(r"\d+", onnxruntime.__version__)[:2])
    if numbers < OLDEST:
        raise ImportError(
            f"onnxruntime: expected version {OLDEST[0]}.{OLDEST[1]} or newer, which checks the paths in a "
            f"model, got {onnxruntime.__version__}"
        )
    return onnxruntime


def _provider_name(runtime: Any, provider: str) -> str:
    available = {name.removesuffix(_PROVIDER).lower(): name for name in runtime.get_available_providers()}
    found: str | None = available.get(provider.removesuffix(_PROVIDER).lower())
    if found is None:
        raise ValueError(f"provider: expected one of {', '.join(map(repr, available))}, got {provider!r}")
    return found


def _uses_operators(model: str | bytes, name: str) -> bool:
    import onnx

    try:
        if isinstance(model, bytes):
            proto = onnx.load_model_from_string(model)
        else:
            proto = onnx.load_model(model, load_external_data=False)
    except Exception as error:  # protobuf has exception types of its own
        raise ValueError(f"{name}: expected a valid ONNX file: {_one_line(error)}") from error
    return any(opset.domain == DOMAIN for opset in proto.opset_import)


def _register(options: Any, *, required: bool) -> None:
    try:
        options.register_custom_ops_library(str(ort_library_path()))
    except Exception as error:  # ONNX Runtime's exceptions share no base class of their own
        if required:
            raise RuntimeError(f"fused: True is not possible: {_one_line(error)}") from error
        warnings.warn(
            f"pe_runtime computes without its ONNX Runtime library, slower: {_one_line(error)}",
            RuntimeWarning,
            stacklevel=3,
        )


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
