"""The only door to `pyruhvro`, which calls itself experimental: what it takes, and its panics as errors."""

import pyarrow as pa
import pyruhvro


class NotTaken(Exception):
    """pyruhvro gave up on something that is no fault of the data; take the general way."""


def schema_of(text: str) -> pa.Schema:
    """The Arrow schema it decodes a schema to. Raises NotTaken when it takes no such schema."""
    try:
        return pyruhvro.avro_to_arrow_schema(text)
    except ValueError as error:
        raise NotTaken(str(error)) from error
    except BaseException as error:
        _refuse_panic(error)
        raise


def decode(bodies: list[bytes], text: str) -> pa.RecordBatch:
    """Avro bodies without header, of one schema, in one call. Raises ValueError where a body is too short."""
    try:
        return pyruhvro.deserialize_array(bodies, text)
    except BaseException as error:
        _refuse_panic(error)
        raise


def encode(batch: pa.RecordBatch, text: str) -> list[pa.Array]:
    """A batch as binary arrays, in order. Raises NotTaken."""
    try:
        return list(pyruhvro.serialize_record_batch(_unsliced(batch), text, 1))
    except ValueError as error:
        raise NotTaken(str(error)) from error
    except BaseException as error:
        _refuse_panic(error)
        raise


def _unsliced(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Nested columns copied where they are slices: the import on the other side asserts on some of those."""
    sliced = [
        i for i, field in enumerate(batch.schema) if pa.types.is_nested(field.type) and batch.column(i).offset
    ]
    if not sliced:
        return batch
    every = pa.array(range(batch.num_rows), pa.int64())
    arrays = [array.take(every) if i in sliced else array for i, array in enumerate(batch.columns)]
    return pa.RecordBatch.from_arrays(arrays, schema=batch.schema)


def _refuse_panic(error: BaseException) -> None:
    """A Rust panic arrives as a BaseException of its own type, which would end a worker; it must not."""
    if type(error).__name__ == "PanicException":
        raise NotTaken(str(error)) from error
