"""Plots, from records alone; a file for each kind."""
