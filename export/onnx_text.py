"""Functions of the project's domain from ONNX's textual syntax.

That is described at https://onnx.ai/onnx/repo-docs/Syntax.html.
"""

from __future__ import annotations

from collections.abc import Mapping

import onnx
import onnx.parser

from pe_runtime.exporters.recorded import DOMAIN


def function(head: str, body: str, opset: int) -> onnx.FunctionProto:
    """A function from its text.

    Args:
        head: "Name <attribute, ...> (input, ...) => (output, ...)".
        body: its nodes.
        opset: version of the standard operators.
    """
    imports = f'<domain: "{DOMAIN}", opset_import: ["" : {opset}]>'
    return onnx.parser.parse_function(f"{imports}\n{head}\n{{\n{body}\n}}")


def constants(lists: Mapping[str, list[int]], **scalars: Mapping[str, float]) -> str:
    """Nodes that give constants, as text.

    Args:
        lists: name to the integers of a vector.
        scalars: by element type ("float", "double", "int64"), name to value.
    """
    lines = [f"{name} = Constant <value_ints = {values}> ()" for name, values in lists.items()]
    for element, named in scalars.items():
        lines += [f"{name} = Constant <value = {element} {{{value!r}}}> ()" for name, value in named.items()]
    return "\n".join(lines) + "\n"
