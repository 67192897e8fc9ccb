"""Findings in the formats that other tools read: one module for each, records in, text or bytes out."""
