"""samba_asr: speech recognition without attention.

`Recognizer` transcribes; `evaluate` scores a model on a test set; `samba_asr.training` trains; the command line is
`samba-asr`.  Importing the package needs torch alone: everything else is imported where it is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from samba_asr.evaluation.evaluate import evaluate
    from samba_asr.recognizer import Recognizer, Stream

__version__ = "0.1.0"
__all__ = ["Recognizer", "Stream", "__version__", "evaluate"]


def __getattr__(name: str):
    if name in ("Recognizer", "Stream"):
        from samba_asr import recognizer

        return getattr(recognizer, name)
    if name == "evaluate":
        from samba_asr.evaluation.evaluate import evaluate

        return evaluate
    raise AttributeError(f"module 'samba_asr' has no attribute {name!r}")
