"""Encoders, fusions, and the networks made of them."""
