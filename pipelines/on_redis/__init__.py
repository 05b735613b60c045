"""State that the processes of an installation share, in Redis: limits, breakers, cached answers."""
