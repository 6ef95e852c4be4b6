"""``quiplinalg export``: the layers of a result file in a format that other programs run."""

from __future__ import annotations

from typing import Any

from quiplinalg.cli.common import OK, Parser, UsageError, emit, format_bytes, warn

__all__ = ["ABOUT", "add_arguments", "run"]

ABOUT = {
    "description": "Write the layers of a result file in a format that other programs run: an ONNX "
    "model for onnxruntime, packed codes in safetensors, or plain weights.",
    "epilog": "onnx and safetensors need packages: pip install 'quiplinalg[onnx,safetensors]'. A "
    "layer that the format cannot hold is an error that says what can; --exclude leaves it out.",
}
_FORMATS = ("onnx", "safetensors", "dense")
_LAYOUTS = ("compressed-tensors", "gptq")
_DTYPES = ("float16", "bfloat16", "float32", "float64")


def add_arguments(parser: Parser) -> None:
    """Add the options of the command."""
    parser.add_argument("source", metavar="OUT.h5", help="a result file")
    parser.add_argument(
        "target", metavar="TARGET", help="the new file; for dense .h5, .npz or .safetensors"
    )
    parser.add_argument(
        "--to", choices=_FORMATS, required=True,
        help="onnx: MatMulNBits nodes, with rotations and groups in any order; safetensors: packed "
        "codes; dense: floats, pruned layers too",
    )  # fmt: skip
    parser.add_argument(
        "--layout", choices=_LAYOUTS, default=None,
        help="of safetensors: compressed-tensors (pack-quantized; default) or gptq (version 2)",
    )  # fmt: skip
    parser.add_argument(
        "--dtype", choices=_DTYPES, default=None,
        help="of dense weights (default: their precision), or of scales in safetensors (default: "
        "as stored)",
    )  # fmt: skip
    parser.add_argument(
        "--accuracy-level", type=int, choices=range(5), default=None, metavar="N",
        help="of MatMulNBits, default 0 (float32); 4 (int8) is much faster, with an error of about "
        "5e-3",
    )  # fmt: skip
    parser.add_argument(
        "--include", action="append", default=[], metavar="GLOB", help="only these layers"
    )
    parser.add_argument(
        "--exclude", action="append", default=[], metavar="GLOB", help="all but these layers"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace TARGET if it exists")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")


def run(options: Any) -> int:
    """Run the command."""
    from quiplinalg.errors import InvalidArgumentError
    from quiplinalg.export import export_result
    from quiplinalg.files import open_result
    from quiplinalg.model.selection import select_layers

    with open_result(options.source) as result:
        try:
            names, idle = select_layers(result.names, options.include, options.exclude)
        except InvalidArgumentError as error:
            raise UsageError(str(error)) from None
    for text in idle:
        warn(text)
    done = export_result(
        options.source, options.target, to=options.to, layout=options.layout, dtype=options.dtype,
        accuracy_level=options.accuracy_level, names=names, overwrite=options.overwrite,
    )  # fmt: skip
    if options.json:
        emit("exported", output=done.path, to=options.to, layers=list(done.layers),
             bytes=done.bytes)  # fmt: skip
    else:
        print(f"{done.path}: {len(done.layers)} layers, {format_bytes(done.bytes)}")
    return OK
