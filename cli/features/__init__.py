"""`millstream features`: what views there are, their values, their history, and the proof that all agree."""
