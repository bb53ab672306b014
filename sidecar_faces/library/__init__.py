"""What is on disk: scanning folders, probing photo headers, mounts."""
