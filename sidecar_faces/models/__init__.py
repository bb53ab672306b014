"""Model packs: which weights, from where, under which licence, with which checksums."""
