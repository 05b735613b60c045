"""The codec between bytes on a topic and records or columns.

`RecordCodec` is the door: one record and its bytes, a list of bytes and an Arrow batch. Batches go through
`pyruhvro` (Rust, straight to Arrow), with `fastavro` as its oracle in tests and for the few schemas it does
not take.
"""

from schemas.codec.columns import arrow_schema
from schemas.codec.record_codec import RecordCodec
from schemas.codec.wire import BadMessage, DecodedBatch

__all__ = ["BadMessage", "DecodedBatch", "RecordCodec", "arrow_schema"]
