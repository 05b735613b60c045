"""The demo: the main job, end to end, on the real local stack."""
