"""Acceptance: what photo managers make of the sidecars that we write."""
