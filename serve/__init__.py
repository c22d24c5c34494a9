"""The service: HTTP and WebSocket interfaces of `samba_asr.engine`; installed as `samba_asr.serve`."""
