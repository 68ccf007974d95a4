"""Methods against each other: what is run, where, and the figures of all runs together."""
