"""Training: from recorded events to a verified model in staging, in stages that survive a kill."""
