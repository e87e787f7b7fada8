"""Files that readers could read in several ways: both gates refuse them, for the same reason."""

import ctypes
import io
import json
import os
import random
import sys
import time
from pathlib import Path

import onnx
import pytest

sys.path.insert(0, str(Path(__file__).parent))
import capi
import native_build
from gate_helpers import metadata, run_python, write_metric

from pe_runtime.gate.metadata import MAX_METADATA_BYTES, parse_metadata
from pe_runtime.gate.metric_file import read_metric
from pe_runtime.gate.onnx_file import MAX_DEPTH, MAX_FIELDS, SCHEMA, scan_onnx

ATTACKS = Path(__file__).resolve().parents[1] / "attacks"
OTHER_FILES = "expected the weights inside the file, got references to other files"
INTEGER = "an integer that is truncated, too large or not in its shortest form"


@pytest.fixture(scope="module")
def library():
    folder = native_build.build("pe_c", needs="PE_CAPI_REASON")
    return capi.Library(folder / "csrc" / "capi" / "libpe_runtime.so")


@pytest.fixture(scope="module")
def open_in_c(library):
    """Open bytes in the C library: the text of its error, or None."""
    runtime = str(native_build.onnxruntime_library()).encode()
    options = capi.Options(ctypes.sizeof(capi.Options), runtime, None, 0, 1, None)

    def call(data):
        handle = ctypes.c_void_p()
        size = ctypes.c_size_t(len(data))
        if library.c.pe_metric_open_memory(data, size, ctypes.byref(options), ctypes.byref(handle)) == 0:
            library.c.pe_metric_close(handle)
            return None
        return library.c.pe_error_text(None).decode()

    return call


def varint(value):
    """A number in protobuf's wire format, in its shortest form."""
    out = b""
    while value > 127:
        out, value = out + bytes([value & 127 | 128]), value >> 7
    return out + bytes([value])


def field(number, value):
    """A field: an integer, or bytes behind their length."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def scanned(data):
    """Why the reader in Python refuses bytes, or None."""
    try:
        scan_onnx(io.BytesIO(data), len(data))
    except ValueError as error:
        return str(error)
    return None


def scanned_in_c(open_in_c, data):
    """Why that in C refuses them; None if it gets as far as the metadata."""
    text = open_in_c(data) or ""
    reason = text.removeprefix("expected a valid ONNX file: ")
    return None if reason == text else reason


@pytest.mark.parametrize("name", sorted(path.name for path in ATTACKS.glob("external_*.onnx")))
def test_weights_in_other_files_are_refused_by_both(open_in_c, name):
    with pytest.raises(ValueError, match="expected a valid ONNX file: ") as caught:
        read_metric(ATTACKS / name)
    assert OTHER_FILES in str(caught.value)
    assert f"{ATTACKS / name}: {open_in_c((ATTACKS / name).read_bytes())}" == str(caught.value)


@pytest.mark.parametrize(
    ("location", "reason"),
    [
        (field(14, 1), OTHER_FILES),
        (field(14, 0), None),
        (b"", None),
        (field(14, 1) + field(14, b""), OTHER_FILES),
        (field(14, 0) + field(14, 0), "field 14 of TensorProto is there twice"),
        (field(14, b"\1"), "field 14 of TensorProto has wire type 2"),
        (varint(14 << 3) + varint(1 + (1 << 32)), INTEGER),
        (varint(14 << 3) + b"\x81\x00", INTEGER),
        (varint(14 << 3) + varint(2), INTEGER),
        (varint(14 << 3) + varint((1 << 64) - 1), INTEGER),
        (varint(14 << 3 | 1 << 32) + b"\1", INTEGER),
        (b"\xf0\x00\x01", INTEGER),
        (field(13, b""), OTHER_FILES),
        (field(15, 1), "field 15 of TensorProto is not known"),
        (b"\x73\x74", "field 14 of TensorProto has wire type 3"),
    ],
)
def test_where_a_tensor_says_that_it_lies(open_in_c, location, reason):
    """In a constant of the graph, and as deep as it may stand."""
    tensor = field(1, 1) + field(2, 2) + location + field(8, b"w")
    nested = field(1, field(5, field(1, b"body") + field(6, field(5, tensor))))
    for data in (
        field(7, field(5, tensor)),
        field(7, nested),
        field(25, field(7, field(5, field(5, tensor)))),
    ):
        model = data if data.startswith(b"\x3a") else field(7, b"") + data
        assert (scanned(model), scanned_in_c(open_in_c, model)) == (reason, reason)


def messages():
    """Each kind of message in ONNX, and the bytes of fields that lead to one of it."""
    paths = {"ModelProto": ()}
    waiting = [onnx.ModelProto.DESCRIPTOR]
    while waiting:
        about = waiting.pop(0)
        for known in about.fields:
            name = known.message_type and known.message_type.full_name.removeprefix("onnx.")
            external = known.full_name.endswith("TensorProto.external_data")
            if name and name not in paths and not external:
                paths[name] = (*paths[about.full_name.removeprefix("onnx.")], known.number)
                waiting.append(known.message_type)
    return paths


def test_the_table_of_fields_is_that_of_onnx(open_in_c):
    """Each number and wire type in each message: read where the onnx package knows it, by both readers."""
    types = {1: 1, 2: 5, 3: 0, 4: 0, 5: 0, 9: 2, 11: 2, 12: 2, 14: 0}
    values = {0: b"\0", 1: bytes(8), 2: b"\0", 5: bytes(4), 3: b"", 4: b""}
    about = {"ModelProto": onnx.ModelProto.DESCRIPTOR}
    checked = 0
    for name, path in messages().items():
        known = about[name].fields_by_number
        for part in known.values():
            if part.message_type:
                about[part.message_type.full_name.removeprefix("onnx.")] = part.message_type
        for number in range(1, 41):
            for wire, value in values.items():
                data = varint(number << 3 | wire) + value
                for outer in reversed(path):
                    data = field(outer, data)
                data = data if path[:1] == (7,) or (path, number) == ((), 7) else field(7, b"") + data
                part = known.get(number)
                expected = part is not None and (
                    types[part.type] == wire or (wire == 2 and part.is_repeated and types[part.type] != 2)
                )
                reason = scanned(data)
                assert reason == scanned_in_c(open_in_c, data), data
                assert (reason is None) == (expected and "external_data" not in part.name), (
                    name,
                    number,
                    wire,
                )
                checked += 1
    assert checked == 28 * 40 * 6
    assert set(messages()) == {line.partition(":")[0] for line in SCHEMA.splitlines() if line[:1].isupper()}


def test_what_there_may_be_one_of(open_in_c):
    graph = field(7, b"")
    tensor_type, sequence = field(1, b""), field(4, b"")
    value = lambda kind: field(7, field(11, field(2, kind)))  # noqa: E731
    for data, reason in (
        (graph + graph, "field 7 of ModelProto is there twice"),
        (value(tensor_type + tensor_type), "field 1 of TypeProto is there twice"),
        (value(tensor_type + sequence), "field 4 of TypeProto is there beside another in its place"),
        (value(tensor_type + field(6, b"IMAGE")), None),
        (b"\x02\x00" + graph, "a field number of 0"),
        (field(7, field(2, b"\xff")), "a text that is not UTF-8"),
        (field(7, field(2, b"\xed\xa0\x80")), "a text that is not UTF-8"),
        (field(7, field(2, "é€😀".encode())), None),
        (field(7, field(5, field(7, b"\xff" * 9 + b"\1"))), None),
        (field(7, field(5, field(7, b"\xff" * 9 + b"\2"))), INTEGER),
        (field(7, field(5, field(5, b"\xff" * 9 + b"\1"))), None),
        (field(7, field(5, field(5, varint(1 << 31)))), INTEGER),
        (field(7, field(5, field(4, b"12345"))), "it is truncated"),
        (b"\x3a\x05", "it is truncated"),
        (b"\x3a", INTEGER),
        (b"", "it has no graph"),
        (b"\x12\x08xxORTMxx" + graph, "it begins like a file in ORT format"),
    ):
        assert (scanned(data), scanned_in_c(open_in_c, data)) == (reason, reason), data


def test_limits_of_both_readers(open_in_c):
    """Depth, number of fields and length of texts: what is allowed, and one more."""

    def nested(levels):
        data = b""
        for level in range(levels):
            data = (
                field((6, 5, 1)[level % 3] if level else 6, data)
                if level % 3 == 0
                else field((5, 1)[level % 3 - 1], data)
            )
        return field(7, data)

    deepest = MAX_DEPTH - 2
    while deepest % 3:
        deepest -= 1
    assert scanned(nested(deepest)) is None
    assert scanned(nested(deepest + 3)) == "messages nested too deeply"
    empty_nodes = b"\x0a\x00" * (MAX_FIELDS - 1)
    many = f"more than {MAX_FIELDS} fields"
    text = field(7, field(10, b"a" * ((1 << 24) + 1)))
    for data, reason in (
        (nested(deepest), None),
        (nested(deepest + 3), "messages nested too deeply"),
        (field(7, empty_nodes), None),
        (field(7, empty_nodes + b"\x0a\x00"), many),
        (text, "a text of more than 16777216 bytes"),
        (
            field(7, field(11, field(3, b"a" * (1 << 24)))),
            "more than 16777216 bytes of names, types and metadata",
        ),
    ):
        assert (scanned(data), scanned_in_c(open_in_c, data)) == (reason, reason)


def test_damaged_metrics_are_refused_for_the_same_reason(open_in_c, tmp_path):
    whole = write_metric(tmp_path / "metric.onnx").read_bytes()
    seeds = [whole, *(path.read_bytes() for path in sorted(ATTACKS.glob("*.onnx")))]
    chance = random.Random(11)
    refused = 0
    for turn in range(4000):
        data = bytearray(seeds[turn % len(seeds)] if turn % 2 else whole)
        for _ in range(chance.choice((1, 1, 2, 4))):
            at = chance.randrange(len(data))
            change = chance.random()
            if change < 0.6:
                data[at] = chance.choice((data[at] ^ 1 << chance.randrange(8), 0, 127, 128, 255))
            elif change < 0.8:
                del data[at : at + chance.randrange(1, 9)]
            else:
                data[at:at] = chance.randbytes(chance.randrange(1, 9))
        reason = scanned(bytes(data))
        assert scanned_in_c(open_in_c, bytes(data)) == reason, bytes(data).hex()
        refused += reason is not None
    assert 1000 < refused < 4000


#: Texts of metadata: whether they are valid, as the members "more" of an object, or as they are.
VALUES = {
    "1": True,
    "-0": True,
    "-0.0": True,
    "1e308": True,
    "1e-999": True,
    "123456789012345678901234567890": True,
    "1" + "0" * 308: True,
    "1" + "0" * 309: False,
    "1" + "0" * 5000: False,
    "1e999": False,
    "-1e999": False,
    "NaN": False,
    "Infinity": False,
    "-Infinity": False,
    "01": False,
    "+1": False,
    ".5": False,
    "1.": False,
    "1e": False,
    "0x10": False,
    "True": False,
    "'a'": False,
    '"a': False,
    '"\\u0000"': False,
    '"\\ud83d\\ude00"': True,
    '"\\ud83d"': False,
    '"\\ude00"': False,
    '"\\ude00\\ud83d"': False,
    '"\\ud83d\\u0041"': False,
    '"\\ud83dA"': False,
    '"\\uD8"': False,
    '"\\x41"': False,
    '"\\/"': True,
    '"\ufeff"': True,
    '"\x7f"': True,
    '"\t"': False,
    '"a\nb"': False,
    '"{[\\"{["': True,
    '"é€😀"': True,
    "[1, 2]": True,
    "[1, 2,]": False,
    "[1 2]": False,
    '{"a": 1,}': False,
    '{"a": 1, "a": 1}': False,
    '{"a": 1, "\\u0061": 2}': False,
    '{"a": {"b": 1}, "b": {"b": 1}}': True,
    '{"\\u0000": 1}': False,
    '{"\\ud800": 1}': False,
    "{1: 2}": False,
    "1 /* one */": False,
    "[" * 31 + "]" * 31: True,
    "[" * 32 + "]" * 32: False,
    '{"a":' * 31 + "1" + "}" * 31: True,
    '{"a":' * 32 + "1" + "}" * 32: False,
    "[" * 100_000 + "]" * 100_000: False,
    "[" * 100_000: False,
}
ABOUT = json.dumps(metadata())
WHOLE = {
    b"": False,
    b"null": False,
    b"[]": False,
    b'"text"': False,
    b"\xef\xbb\xbf" + ABOUT.encode(): False,
    b"\0" + ABOUT.encode(): False,
    ABOUT.encode() + b"\0": False,
    ABOUT.encode() + b"\0garbage": False,
    ABOUT.encode() + b"garbage": False,
    ABOUT.encode() + b" \t\r\n": True,
    ABOUT.encode() + b"\x0c": False,
    ABOUT.encode() + "\u00a0".encode(): False,
    ABOUT.encode() + ABOUT.encode(): False,
    ABOUT.encode() + b" " * (MAX_METADATA_BYTES - len(ABOUT)): True,
    ABOUT.encode() + b" " * (MAX_METADATA_BYTES - len(ABOUT) + 1): False,
    ABOUT.encode("utf-16"): False,
    ABOUT.replace("feature", "fea\x00ture").encode(): False,
    ABOUT.encode().replace(b"feature", b"fea\xff"): False,
    ABOUT.encode().replace(b"feature", b"\xc0\xaf"): False,
    ABOUT.encode().replace(b"feature", b"\xed\xa0\xbd"): False,
    ABOUT.encode().replace(b"feature", b"\xf4\x90\x80\x80"): False,
}
TEXTS = WHOLE | {f'{ABOUT[:-1]}, "more": {value}}}'.encode(): valid for value, valid in VALUES.items()}


def test_metadata_by_one_rule(open_in_c, tmp_path):
    model = onnx.load(write_metric(tmp_path / "metric.onnx", meta=False)).SerializeToString()
    for text, valid in TEXTS.items():
        try:
            parse_metadata(text, "m.onnx")
            reason = None
        except ValueError as error:
            reason = str(error)
        in_c = open_in_c(model + field(14, field(1, b"pe_runtime") + field(2, text)))
        for verdict in (reason, in_c):
            assert (verdict is None) == valid, (text[-80:], reason, in_c)
            if not valid:
                assert "metadata 'pe_runtime': expected valid metadata: " in verdict


@pytest.mark.parametrize(
    ("changes", "valid"),
    [
        ({"min_size": (1 << 31) - 1}, True),
        ({"min_size": 1 << 31}, False),
        ({"min_size": 1 << 64}, False),
        ({"min_size": 4.0}, False),
        ({"min_size": True}, False),
        ({"format": 1.0}, True),
        ({"format": True}, False),
        ({"threshold": -0.0}, True),
        ({"threshold": 10**300}, True),
        ({"threshold": -1e-300}, False),
        ({"threshold": False}, False),
    ],
)
def test_values_of_metadata_by_one_rule(open_in_c, tmp_path, changes, valid):
    path = write_metric(tmp_path / "metric.onnx", **changes)
    in_c = open_in_c(path.read_bytes())
    assert (in_c is None) == valid
    if valid:
        read_metric(path).check_contract()
    else:
        with pytest.raises(ValueError, match=r"metadata: expected") as caught:
            read_metric(path).check_contract()
        assert in_c.partition(", got")[0] in str(caught.value)


def special_files(folder):
    """What is no regular file, or never ends."""
    os.mkfifo(folder / "fifo")
    return [
        folder / "fifo",
        Path("/dev/zero"),
        Path("/dev/tty"),
        folder,
        Path("/proc/self/environ"),
        Path("/proc/kmsg"),
    ]


def test_what_is_no_regular_file_is_refused_at_once(library, tmp_path):
    runtime = native_build.onnxruntime_library()
    for path in special_files(tmp_path):
        if not path.exists():
            continue
        began = time.monotonic()
        with pytest.raises((ValueError, OSError)) as caught:
            read_metric(path)
        with pytest.raises(ValueError, match=r"got something that is not a file|got an empty file") as in_c:
            capi.Metric(library, path, runtime)
        assert time.monotonic() - began < 1
        if not path.is_dir():
            assert str(caught.value) == str(in_c.value)
    sparse = tmp_path / "sparse.onnx"
    with sparse.open("wb") as file:
        file.truncate(1 << 31)
    for call in (lambda: read_metric(sparse), lambda: capi.Metric(library, sparse, runtime)):
        with pytest.raises(ValueError, match="of at most 2147483647 bytes, got 2147483648 bytes"):
            call()


def test_the_commands_refuse_them_too(tmp_path):
    """In processes of their own, which a pipe would hold up for ever."""
    for path in special_files(tmp_path)[:2]:
        for arguments in (("describe", path), ("gate", "a.png", "b.png", "--metric", path, "--threshold", 1)):
            done = run_python("from pe_runtime.cli import main; main()", *arguments)
            assert done.returncode == 2
            assert "got something that is not a file" in done.stderr + done.stdout


def test_old_versions_of_onnx_runtime_are_refused(tmp_path):
    """A module and a library that say that they are 1.26: neither loads a model."""
    code = (
        "import sys, types; old = types.ModuleType('onnxruntime'); old.__version__ = '1.26.0'\n"
        "sys.modules['onnxruntime'] = old\n"
        "from pe_runtime import open_session; open_session(b'')"
    )
    done = run_python(code)
    text = "onnxruntime: expected version 1.27 or newer, which checks the paths in a model, got 1.26.0"
    assert f"ImportError: {text}" in done.stderr
