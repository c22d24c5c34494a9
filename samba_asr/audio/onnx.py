"""Third-party networks in ONNX format, run on one core."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from samba_asr.errors import missing_extra


def session(path: Path | str, extra: str) -> Any:
    """Return an `onnxruntime.InferenceSession`.  UserError, with the extra to install, if the package is missing."""
    try:
        import onnxruntime
    except ImportError as error:
        raise missing_extra("onnxruntime", extra) from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
