"""Recordings: one SQLite file each."""
