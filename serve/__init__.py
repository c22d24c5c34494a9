"""The server: HTTP and WebSocket in front of `samba_asr.engine`, installed as `samba_asr.serve`."""
