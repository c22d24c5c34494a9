"""Operations that torch's exporter of recorded graphs lacks, or for which it would fix a size.

The exporter records a run (`dynamo=False`).  The newer one, which derives symbolic shapes, takes 200 s of CPU for the shipped
model, and this one 12 s.  `unflatten` of this one would fix all other sizes to those of the recorded run.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

OPSET = 18


def register() -> None:
    """Register the operations with torch.onnx."""
    from torch.onnx import register_custom_op_symbolic  # pyright: ignore[reportPrivateImportUsage]  (documented)

    for name, symbolic in (("mT", _transposed), ("rms_norm", _rms_norm), ("unflatten", _unflatten)):
        register_custom_op_symbolic(f"aten::{name}", symbolic, OPSET)


def _constant(g: Any, value: Tensor) -> Any:
    return g.op("Constant", value_t=value)


def _integers(g: Any, *values: int) -> Any:
    return _constant(g, torch.tensor(values))


def _value(x: Any) -> Any:
    """Return the value of a constant: a number or a list of integers."""
    node = x.node()
    found = getattr(node, node.kindOf("value"))("value")
    return found.tolist() if isinstance(found, Tensor) else found


def _rank(x: Any) -> int:
    return x.type().dim()


def _transposed(g: Any, x: Any) -> Any:
    order = list(range(_rank(x)))
    order[-2:] = order[-1], order[-2]
    return g.op("Transpose", x, perm_i=order)


def _rms_norm(g: Any, x: Any, shape: Any, weight: Any, eps: Any) -> Any:
    square = g.op("ReduceMean", g.op("Mul", x, x), _integers(g, -1), keepdims_i=1)
    root = g.op("Sqrt", g.op("Add", square, _constant(g, torch.tensor(_value(eps), dtype=torch.float32))))
    return g.op("Mul", g.op("Div", x, root), weight)


def _unflatten(g: Any, x: Any, dim: Any, sizes: Any, names: Any = None) -> Any:
    rank = _rank(x)
    at = _value(dim) % rank
    shape = g.op("Shape", x)
    parts = []
    if at:
        parts.append(g.op("Slice", shape, _integers(g, 0), _integers(g, at), _integers(g, 0)))
    if sizes.node().kind() == "prim::ListConstruct":
        parts += [g.op("Reshape", size, _integers(g, 1)) for size in sizes.node().inputs()]
    else:
        parts.append(_integers(g, *_value(sizes)))
    if at + 1 < rank:
        parts.append(g.op("Slice", shape, _integers(g, at + 1), _integers(g, rank), _integers(g, 0)))
    return g.op("Reshape", x, g.op("Concat", *parts, axis_i=0) if len(parts) > 1 else parts[0])
