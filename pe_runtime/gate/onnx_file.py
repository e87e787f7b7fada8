"""ONNX files read field by field, strictly, before protobuf, the checker or ONNX Runtime see them.

Readers of protobuf skip what they do not know, let the last of two values win and cut integers to size, each
in its own way, so that what one of them takes for harmless another may follow to a file. Here everything is
refused that two readers could read in two ways, and every reference to another file, wherever it stands.
csrc/capi/onnx_file.cpp does the same in the same words.
"""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass, field
from typing import BinaryIO, NoReturn

from pe_runtime.gate.metadata import MAX_METADATA_BYTES, METADATA_KEY

#: The messages of onnx.proto: number and type of each field; `*`: any number; `|`: at most one of these.
#: A version of ONNX that adds a field is read once it stands here.
SCHEMA = """
ModelProto: 1 int64, 2 text, 3 text, 4 text, 5 int64, 6 text, 7 GraphProto, 8* OperatorSetIdProto,
    14* StringStringEntryProto, 20* TrainingInfoProto, 25* FunctionProto, 26* DeviceConfigurationProto
OperatorSetIdProto: 1 text, 2 int64
StringStringEntryProto: 1 text, 2 anytext
GraphProto: 1* NodeProto, 2 text, 5* TensorProto, 10 text, 11* ValueInfoProto, 12* ValueInfoProto,
    13* ValueInfoProto, 14* TensorAnnotation, 15* SparseTensorProto, 16* StringStringEntryProto
NodeProto: 1* text, 2* text, 3 text, 4 text, 5* AttributeProto, 6 text, 7 text, 8 text,
    9* StringStringEntryProto, 10* NodeDeviceConfigurationProto
AttributeProto: 1 text, 2 float, 3 int64, 4 bytes, 5 TensorProto, 6 GraphProto, 7* float, 8* int64, 9* bytes,
    10* TensorProto, 11* GraphProto, 13 text, 14 TypeProto, 15* TypeProto, 20 enum14, 21 text,
    22 SparseTensorProto, 23* SparseTensorProto
TensorProto: 1* int64, 2 int32, 3 TensorProto.Segment, 4* float, 5* int32, 6* bytes, 7* int64, 8 text,
    9 bytes, 10* double, 11* int64, 12 text, 13* StringStringEntryProto, 14 enum1, 16* StringStringEntryProto
TensorProto.Segment: 1 int64, 2 int64
SparseTensorProto: 1 TensorProto, 2 TensorProto, 3* int64
ValueInfoProto: 1 text, 2 TypeProto, 3 text, 4* StringStringEntryProto
TypeProto: 1| TypeProto.Tensor, 4| TypeProto.Sequence, 5| TypeProto.Map, 6 text, 7| TypeProto.Opaque,
    8| TypeProto.SparseTensor, 9| TypeProto.Optional
TypeProto.Tensor: 1 int32, 2 TensorShapeProto
TypeProto.SparseTensor: 1 int32, 2 TensorShapeProto
TypeProto.Sequence: 1 TypeProto
TypeProto.Map: 1 int32, 2 TypeProto
TypeProto.Optional: 1 TypeProto
TypeProto.Opaque: 1 text, 2 text
TensorShapeProto: 1* TensorShapeProto.Dimension
TensorShapeProto.Dimension: 1| int64, 2| text, 3 text
TensorAnnotation: 1 text, 2* StringStringEntryProto
TrainingInfoProto: 1 GraphProto, 2 GraphProto, 3* StringStringEntryProto, 4* StringStringEntryProto
FunctionProto: 1 text, 4* text, 5* text, 6* text, 7* NodeProto, 8 text, 9* OperatorSetIdProto, 10 text,
    11* AttributeProto, 12* ValueInfoProto, 13 text, 14* StringStringEntryProto
DeviceConfigurationProto: 1 text, 2 int32, 3* text
NodeDeviceConfigurationProto: 1 text, 2* ShardingSpecProto, 3 int32
ShardingSpecProto: 1 text, 2* int64, 3* IntIntListEntryProto, 4* ShardedDimProto
IntIntListEntryProto: 1 int64, 2* int64
ShardedDimProto: 1 int64, 2* SimpleShardedDimProto
SimpleShardedDimProto: 1| int64, 2| text, 3 int64
"""

#: Fields of all messages together. Protobuf makes hundreds of bytes of an empty message's two.
MAX_FIELDS = 1 << 20
#: Messages inside each other; protobuf's own limit is 100, and exported metrics have 12.
MAX_DEPTH = 64
#: Of a name or a comment.
MAX_TEXT_BYTES = 1 << 24
#: Names, types and metadata together, which are kept.
MAX_KEPT_BYTES = 1 << 24

_BLOCK = 1 << 18
_WIDTH = {"float": 4, "double": 8}

# Integers in protobuf's wire format, in their shortest form. A negative int32 takes ten bytes.
_INT64 = rb"[\x00-\x7f]|[\x80-\xff]{1,8}[\x01-\x7f]|[\x80-\xff]{9}\x01"
_INT32 = (
    rb"[\x00-\x7f]|[\x80-\xff]{1,3}[\x01-\x7f]|[\x80-\xff]{4}[\x01-\x07]"
    rb"|[\x80-\xff]{4}[\xf8-\xff]\xff{4}\x01"
)
_TAG = re.compile(rb"[\x00-\x7f]|[\x80-\xff]{1,3}[\x01-\x7f]|[\x80-\xff]{4}[\x01-\x0f]")
_ONE = {"int32": re.compile(_INT32), "int64": re.compile(_INT64)}
_MANY = {kind: re.compile(rb"(?:%b){0,32767}" % one.pattern) for kind, one in _ONE.items()}


@dataclass(frozen=True)
class OnnxFile:
    """What a file says of itself.

    Attributes:
        metadata: values of the metadata key "pe_runtime".
        inputs: the messages (ValueInfoProto) of its graph's inputs.
        outputs: the same of its outputs.
        constants: names of the tensors in its graph.
        opsets: the messages (OperatorSetIdProto) of what it imports.
    """

    metadata: list[bytes] = field(default_factory=list)
    inputs: list[bytes] = field(default_factory=list)
    outputs: list[bytes] = field(default_factory=list)
    constants: set[bytes] = field(default_factory=set)
    opsets: list[bytes] = field(default_factory=list)


def scan_onnx(file: BinaryIO, size: int) -> OnnxFile:
    """Read all fields of an ONNX file, in memory that does not depend on its size.

    Args:
        file: its bytes, from the first.
        size: how many.

    Raises:
        ValueError: no message of ONNX's shape, or one that two readers could read in two ways; a reference to
            another file; more than the limits of this module. The text says what, not where it is from.
        OSError: it cannot be read.
    """
    scan = _Scan(file, size)
    if scan.begins_like_ort_format():
        _refuse("it begins like a file in ORT format")
    scan.message("ModelProto", size, 1)
    if not scan.has_graph:
        _refuse("it has no graph")
    return scan.found


class _Scan:
    def __init__(self, file: BinaryIO, size: int) -> None:
        self.found, self.has_graph = OnnxFile(), False
        self._file, self._size = file, size
        self._block, self._start = b"", 0  # a part of the file, and where it begins
        self._at = self._fields = self._kept = 0
        self._entry: dict[int, bytes] = {}

    def begins_like_ort_format(self) -> bool:
        """Whether ONNX Runtime would take it for a file of its own format, of which nothing is checked."""
        return self._read(4, 8) == b"ORTM"

    def message(self, name: str, end: int, depth: int) -> None:
        """Read the fields of a message from where the scan is to `end`."""
        if depth > MAX_DEPTH:
            _refuse("messages nested too deeply")
        schema, seen, choice = _SCHEMA[name], set(), False
        while self._at < end:
            self._fields += 1
            if self._fields > MAX_FIELDS:
                _refuse(f"more than {MAX_FIELDS} fields")
            tag = self._integer(_TAG, end)
            number, wire = tag >> 3, tag & 7
            if number == 0:
                _refuse("a field number of 0")
            known = schema.get(number)
            if known is None:
                _refuse(f"field {number} of {name} is not known")
            packed = known.packable and wire == 2
            if wire != known.wire and not packed:
                _refuse(f"field {number} of {name} has wire type {wire}")
            if not known.repeated:
                if number in seen:
                    _refuse(f"field {number} of {name} is there twice")
                seen.add(number)
            if known.choice:
                if choice:
                    _refuse(f"field {number} of {name} is there beside another in its place")
                choice = True
            if name == "TensorProto" and number == 13:
                _refuse_other_files()
            if wire == 2:
                length = self._integer(_ONE["int64"], end)
                if length > end - self._at:
                    _refuse("it is truncated")
                self._span(name, number, known, self._at + length, depth)
            elif wire == 0:
                value = self._integer(_ONE[known.kind], end)
                if known.largest is not None and value > known.largest:
                    _refuse_integer()
                if name == "TensorProto" and number == 14 and value:
                    _refuse_other_files()
            else:
                self._skip(_WIDTH[known.kind], end)

    def _span(self, name: str, number: int, known: _Field, end: int, depth: int) -> None:
        """Read what a field with a length holds, up to `end`."""
        begin = self._at
        if known.kind == "message":
            self.message(known.message, end, depth + 1)
            self._note(name, number, depth, begin, end)
        elif known.kind == "text":
            self._text(end)
            if depth == 2 and name == "StringStringEntryProto":
                self._entry[number] = self._keep(begin, end)
            elif depth == 3 and name == "TensorProto" and number == 8:
                self.found.constants.add(self._keep(begin, end))
        elif known.kind == "anytext":
            if depth == 2:
                self._entry[number] = self._read(begin, min(end, begin + MAX_METADATA_BYTES + 1))
            self._at = end
        elif known.kind in _MANY:
            self._integers(known.kind, end)
        elif known.kind in _WIDTH:
            if (end - begin) % _WIDTH[known.kind]:
                _refuse("it is truncated")
            self._at = end
        else:
            self._at = end

    def _note(self, name: str, number: int, depth: int, begin: int, end: int) -> None:
        """Keep what is wanted of a message that has been read."""
        if name == "ModelProto" and number == 7:
            self.has_graph = True
        elif name == "ModelProto" and number == 8:
            self.found.opsets.append(self._keep(begin, end))
        elif name == "ModelProto" and number == 14:
            if self._entry.get(1) == METADATA_KEY.encode():
                value = self._entry.get(2, b"")
                self._count_kept(len(value))
                self.found.metadata.append(value)
            self._entry = {}
        elif name == "GraphProto" and depth == 2 and number in (11, 12):
            (self.found.inputs if number == 11 else self.found.outputs).append(self._keep(begin, end))

    def _integer(self, pattern: re.Pattern[bytes], end: int) -> int:
        if self._at >= end:
            _refuse_integer()
        first = self._available(10)
        byte = self._block[first]
        if byte < 128:
            self._at += 1
            return byte
        found = pattern.match(self._block, first, min(first + 10, end - self._start))
        if found is None:
            _refuse_integer()
        self._at += len(found[0])
        return sum((byte & 127) << 7 * place for place, byte in enumerate(found[0]))

    def _integers(self, kind: str, end: int) -> None:
        while self._at < end:
            first = self._available(10)
            found = _MANY[kind].match(self._block, first, end - self._start)
            if found is None or not found[0]:
                _refuse_integer()
            self._at += len(found[0])

    def _text(self, end: int) -> None:
        if end - self._at > MAX_TEXT_BYTES:
            _refuse(f"a text of more than {MAX_TEXT_BYTES} bytes")
        decoder = codecs.getincrementaldecoder("utf-8")()
        try:
            while self._at < end:
                first = self._available(1)
                part = self._block[first : end - self._start]
                decoder.decode(part)
                self._at += len(part)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            _refuse("a text that is not UTF-8")

    def _skip(self, count: int, end: int) -> None:
        if count > end - self._at:
            _refuse("it is truncated")
        self._at += count

    def _keep(self, begin: int, end: int) -> bytes:
        self._count_kept(end - begin)
        return self._read(begin, end)

    def _count_kept(self, count: int) -> None:
        self._kept += count
        if self._kept > MAX_KEPT_BYTES:
            _refuse(f"more than {MAX_KEPT_BYTES} bytes of names, types and metadata")

    def _read(self, begin: int, end: int) -> bytes:
        if self._start <= begin and end <= self._start + len(self._block):
            return self._block[begin - self._start : end - self._start]
        self._file.seek(begin)
        return self._file.read(end - begin)

    def _available(self, count: int) -> int:
        """Where the scan is in the block, which holds `count` bytes from there, or all there are."""
        first = self._at - self._start
        if first + count > len(self._block) and self._start + len(self._block) < self._size:
            self._file.seek(self._at)
            self._block, self._start, first = self._file.read(_BLOCK), self._at, 0
        if first >= len(self._block):
            _refuse("it is truncated")  # since its size was asked for
        return first


@dataclass(frozen=True)
class _Field:
    kind: str  # "int32", "int64", "float", "double", "text", "anytext", "bytes" or "message"
    wire: int
    message: str
    largest: int | None
    repeated: bool
    choice: bool

    @property
    def packable(self) -> bool:
        """Whether its numbers may also stand together, behind a length."""
        return self.repeated and self.wire != 2


def _read_schema() -> dict[str, dict[int, _Field]]:
    messages: dict[str, dict[int, _Field]] = {}
    for line in SCHEMA.strip().replace(",\n    ", ", ").splitlines():
        name, _, fields = line.partition(": ")
        messages[name] = {}
        for described in fields.split(", "):
            number, kind = described.split(" ")
            messages[name][int(number.rstrip("*|"))] = _read_field(kind, number[-1])
    return messages


def _read_field(kind: str, mark: str) -> _Field:
    largest = int(kind.removeprefix("enum")) if kind.startswith("enum") else None
    message = kind if kind[0].isupper() else ""
    kind = "int32" if largest is not None else "message" if message else kind
    wire = {"int32": 0, "int64": 0, "double": 1, "float": 5}.get(kind, 2)
    return _Field(kind, wire, message, largest, repeated=mark == "*", choice=mark == "|")


_SCHEMA = _read_schema()


def _refuse_integer() -> NoReturn:
    _refuse("an integer that is truncated, too large or not in its shortest form")


def _refuse_other_files() -> NoReturn:
    _refuse("expected the weights inside the file, got references to other files")


def _refuse(reason: str) -> NoReturn:
    raise ValueError(reason)
