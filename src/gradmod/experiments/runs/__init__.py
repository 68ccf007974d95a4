"""The folder of a run: its names and formats, who holds it, what is written into it and read back."""
