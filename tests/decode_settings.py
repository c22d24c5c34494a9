"""Search settings for tests, written as a user writes them."""

from __future__ import annotations

from samba_asr.config import DecodeConfig, load


def decoding(*settings: str) -> DecodeConfig:
    """decoding("search.method=beam", "lm=books.arpa")"""
    return load([], [f"decode.{text}" for text in settings]).decode
