"""What the writer counts, per sink."""

from core.telemetry.metrics import counter, gauge, histogram

RECORDS = counter("writer_records_total", "Records a sink has made durable", ["sink", "topic"])
CHUNKS = counter("writer_batches_total", "Batches a sink has made durable", ["sink"])
REFUSED = counter(
    "writer_refused_total", "Messages not written: dead_lettered, or left to another reader", ["sink", "code"]
)
FAILURES = counter("writer_failures_total", "Attempts that failed and were made again", ["sink", "code"])
LAG = gauge("writer_lag_records", "Messages behind the end of the partition", ["sink", "topic", "partition"])
HOLDING = gauge("writer_holding", "1 while a sink holds back because something is away", ["sink"])
WRITE_MS = histogram("writer_write_ms", "One batch, from decoded to durable", ["sink"])
