"""The codec against fastavro, on card payments of 120 columns.

The peers are what one writes with `fastavro` by hand: `schemaless_reader` in a loop and the rows to an Arrow
batch; rows that are there as dictionaries through `schemaless_writer`; one value to one record.
"""

import io
import itertools
import json
from datetime import datetime
from typing import Any

import fastavro
import msgspec
import pyarrow as pa

from bench.harness import (
    BenchResult,
    Measure,
    compare,
    control,
    cpu_time,
    per_record,
    repeats,
    require_equal,
    typical,
    versions,
)
from bench.payments import payments
from schemas.catalog.transactions import Transaction
from schemas.codec import RecordCodec
from schemas.codec.wire import HEADER

BATCH = 512


class OneSchema:
    """A registry with one schema, number 1, so that no network is measured."""

    def __init__(self) -> None:
        self.text = ""

    def id_of(self, subject: str, text: str) -> int:
        self.text = text
        return 1

    def schema(self, schema_id: int) -> str:
        return self.text


def bench() -> BenchResult:
    """Ratios `decode_512`, `encode_512`, `decode_1`, `encode_1`: CPU seconds of fastavro over ours."""
    batch, origin = payments(BATCH)
    codec = RecordCodec(Transaction, OneSchema(), "bench-value")
    records = [msgspec.convert(row, Transaction) for row in batch.to_pylist()]
    values = [codec.encode(record) for record in records]
    parsed = fastavro.parse_schema(json.loads(codec.text))
    head = values[0][:HEADER]
    rows = batch.to_pylist()  # the peer has its rows as dictionaries already

    def their_decode() -> pa.RecordBatch:
        read = [fastavro.schemaless_reader(io.BytesIO(value[HEADER:]), parsed, None) for value in values]
        return pa.RecordBatch.from_pylist(read, schema=codec.columns)

    def their_encode() -> list[bytes]:
        out = []
        for row in rows:
            stream = io.BytesIO()
            stream.write(head)
            fastavro.schemaless_writer(stream, parsed, row)
            out.append(stream.getvalue())
        return out

    def their_decode_one(value: bytes) -> Transaction:
        row = fastavro.schemaless_reader(io.BytesIO(value[HEADER:]), parsed, None)
        return msgspec.convert(row, Transaction)

    def their_encode_one(record: Transaction) -> bytes:
        stream = io.BytesIO()
        stream.write(head)
        fastavro.schemaless_writer(stream, parsed, msgspec.to_builtins(record, builtin_types=(datetime,)))
        return stream.getvalue()

    require_equal("decoded batches", codec.decode_batch(values).batch.equals(their_decode()), True)
    require_equal("encoded batches", codec.encode_batch(batch), their_encode())
    require_equal("decoded records", [codec.decode(v) for v in values], [their_decode_one(v) for v in values])
    require_equal("encoded records", values, [their_encode_one(record) for record in records])

    ours = {
        "decode_512": _measure(lambda: codec.decode_batch(values)),
        "encode_512": _measure(lambda: codec.encode_batch(batch)),
        "decode_1": _measure(lambda: [codec.decode(value) for value in values]),
        "encode_1": _measure(lambda: [codec.encode(record) for record in records]),
    }
    theirs = {
        "decode_512": _measure(their_decode),
        "encode_512": _measure(their_encode),
        "decode_1": _measure(lambda: [their_decode_one(value) for value in values]),
        "encode_1": _measure(lambda: [their_encode_one(record) for record in records]),
    }
    goals = {"decode_512": 8.0, "encode_512": 8.0, "decode_1": 1.0, "encode_1": 1.0}
    meanings = {
        "decode_512": "bytes to Arrow, batches of 512: CPU of fastavro over ours",
        "encode_512": "Arrow to bytes, batches of 512: CPU of fastavro over ours",
        "decode_1": "one value to one record: CPU of fastavro and msgspec over ours",
        "encode_1": "one record to one value: CPU of fastavro and msgspec over ours",
    }
    ratios = [
        compare(
            name, numerator=theirs[name], denominator=ours[name], goal=goals[name], meaning=meanings[name]
        )
        for name in ours
    ]
    figures = dict(
        itertools.chain.from_iterable(
            (
                (f"{name} ours us/record", per_record(typical(ours[name]), BATCH)),
                (f"{name} fastavro us/record", per_record(typical(theirs[name]), BATCH)),
            )
            for name in ours
        )
    )
    return BenchResult(
        bench="codec",
        ratios=ratios,
        versions=versions(("pyruhvro", "fastavro", "pyarrow", "msgspec")),
        sizes={
            "batch": BATCH,
            "columns": len(codec.columns),
            "bytes per record": round(sum(map(len, values)) / len(values)),
            "payments": origin,
        },
        figures=figures,
        control=control(ours["decode_512"]),
    )


def _measure(work: Any) -> Measure:
    return cpu_time(work, times=repeats(work))
