"""Readers and parsers: from the kernel's and the target's bytes to records. No policy."""
