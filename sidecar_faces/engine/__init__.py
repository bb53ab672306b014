"""From the bytes of a batch of photos to faces."""
