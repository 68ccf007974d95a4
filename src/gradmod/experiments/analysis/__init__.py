"""What a finished run is asked: its diagnosis, and the competition between its modalities."""
