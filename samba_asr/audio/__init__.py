"""Audio: reading, resampling, features, augmentation.  Nothing here knows about text or models."""
