"""Views and patterns to SQL: one file per engine."""
