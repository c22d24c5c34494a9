"""Layers.  Each keeps the contract of `samba_asr.streaming`, or that of `samba_asr.nn.blocks`."""
