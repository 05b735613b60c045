"""Progress of a long step, told to whoever shows it."""

from core.carrier import Progress, silent

__all__ = ["Progress", "silent"]
