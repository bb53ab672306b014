"""Pure building blocks: no I/O, no clock, no logging; the standard library and NumPy only."""
