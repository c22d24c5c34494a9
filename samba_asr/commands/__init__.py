"""Subcommands of `samba-asr`, one module each: `add_parser(subparsers)` and `run(args) -> exit status`."""
