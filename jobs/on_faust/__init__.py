"""The Faust side: tumbling views computed in Python, for a pipeline without a JVM engine."""
