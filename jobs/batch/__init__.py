"""Jobs that end: over recorded events and stored rows, started by hand or by a schedule."""
