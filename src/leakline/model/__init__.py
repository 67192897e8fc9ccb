"""Frozen records in base units (bytes, nanoseconds, counts): no I/O, nothing of ours imported."""
