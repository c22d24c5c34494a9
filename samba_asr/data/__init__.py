"""Data: manifests, corpora, batches.  Nothing here touches features or models."""
