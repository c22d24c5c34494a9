"""The one train loop: `samba_asr.training.trainer.train`."""
