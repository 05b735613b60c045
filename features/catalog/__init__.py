"""Feature views and patterns shipped with the framework, one per file."""
