"""Other people's networks, in ONNX's format, on one core."""

from __future__ import annotations

from pathlib import Path

from samba_asr.errors import missing_extra


def session(path: Path | str, extra: str):
    """An `onnxruntime.InferenceSession`; UserError, that names the extra, where the package is missing."""
    try:
        import onnxruntime
    except ImportError as error:
        raise missing_extra("onnxruntime", extra) from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
