"""What every part stands on: errors, settings, telemetry, clock, ids. Imports nothing of ours."""
