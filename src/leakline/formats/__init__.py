"""Parsers of binary files: pure, over an open file or bytes."""
