"""Figures of merit over samples."""
