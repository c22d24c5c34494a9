"""Networks in ONNX format, run by onnxruntime."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from samba_asr.errors import missing_extra


def session(path: Path | str, extra: str, threads: int = 1) -> Any:
    """Return an `onnxruntime.InferenceSession` whose operations use so many threads; its `run` may be called from any thread.

    UserError, with the extra to install, if the package is missing.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise missing_extra("onnxruntime", extra) from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    # Threads that spin while they wait are faster only as long as nothing else runs.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # Subnormal numbers are slow, and say nothing.  onnxruntime turns them off in the thread that makes its first session, too.
    options.add_session_config_entry("session.set_denormal_as_zero", "1")
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def quantize(path: Path) -> None:
    """Write the matrices of a graph's products as 8-bit integers, with one scale for each column."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    whole = path.with_suffix(".float32.onnx")
    path.rename(whole)
    root = logging.getLogger()
    before, root.disabled = root.disabled, True  # it advises to preprocess the graph, which changes nothing here
    try:
        options = {"weight_type": QuantType.QInt8, "per_channel": True, "op_types_to_quantize": ["MatMul", "Gemm"]}
        quantize_dynamic(str(whole), str(path), **options)
    finally:
        root.disabled = before
        whole.unlink()
