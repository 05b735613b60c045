"""What can go wrong with a write: the surroundings are away (hold and retry), or the record is bad."""

from core.errors import InvalidInput


class BadRecord(InvalidInput):
    """The store refuses this input for good; writing it again gives the same answer.

    Raised for a batch, it makes the writer halve the batch until the bad records stand alone.
    """

    default_code = "refused_by_store"


class Rewind(Exception):
    """The sink's store has less than was written to it: read again from where the store ends."""
