"""The settings of a run, from files and from the command line, checked before anything starts."""
