"""samba_asr: speech recognition without attention.

`Recognizer` transcribes; `evaluate` scores a model on a test set; `samba_asr.training` trains; the command line is
`samba-asr`.  Importing the package needs torch alone: everything else is imported where it is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from samba_asr.evaluation.evaluate import evaluate
    from samba_asr.recognizer import Recognizer
    from samba_asr.stream import Stream

__version__ = "0.1.0"
__all__ = ["Recognizer", "Stream", "__version__", "evaluate"]


def __getattr__(name: str) -> Any:
    if name == "Recognizer":
        from samba_asr.recognizer import Recognizer

        return Recognizer
    if name == "Stream":
        from samba_asr.stream import Stream

        return Stream
    if name == "evaluate":
        from samba_asr.evaluation.evaluate import evaluate

        return evaluate
    raise AttributeError(f"module 'samba_asr' has no attribute {name!r}")
