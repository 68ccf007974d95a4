"""Making data sets from their sources."""
