"""Data sets, one file each, and their registry."""
