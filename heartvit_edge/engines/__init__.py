"""Building engines, the machine's fingerprint, and the store of built engines."""
