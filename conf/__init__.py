"""Configuration deltas in YAML, installed as `samba_asr.conf`; composed by `samba_asr.config.load`."""
