"""State-space duality: the scan of Mamba-2."""

from samba_asr.ops.ssd.dispatch import choose, ssd

__all__ = ["choose", "ssd"]
