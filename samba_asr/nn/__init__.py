"""Layers: every one obeys the law of `samba_asr.streaming`, or that of `samba_asr.nn.blocks`."""
