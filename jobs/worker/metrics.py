"""What a scoring worker tells Prometheus."""

from core.telemetry.metrics import counter, gauge, histogram

RECORDS = counter("worker_records_total", "Records scored, by decision", ("pipeline", "decision"))
REPEATS = counter(
    "worker_repeats_total", "Records dropped because their id was handled before", ("pipeline",)
)
LATE = counter("worker_late_total", "Records too late for their windows, by level", ("pipeline", "level"))
DEAD_LETTERS = counter("worker_dead_letters_total", "Messages dead-lettered", ("pipeline", "stage", "code"))
HELD = counter("worker_held_total", "Times a batch was held back, by cause", ("pipeline", "cause"))
SESSIONS = counter("worker_sessions_total", "Kafka sessions begun; above one means recovery", ("pipeline",))
MODEL_REFUSED = counter("worker_model_refused_total", "Models refused at load", ("pipeline",))
MODEL_SWAPPED = counter("worker_model_swapped_total", "Models put in service", ("pipeline",))
FAILOVERS = counter(
    "worker_failovers_total", "Times that another version took the place of one that broke", ("pipeline",)
)
VERSION_RECORDS = counter(
    "worker_version_records_total",
    "Records given to a version that is held, by what it made of them: scored, failed",
    ("pipeline", "version", "outcome"),
)
VERSION_SHARE = gauge(
    "worker_version_share", "Share of the records that a version in service is given", ("pipeline", "version")
)
LAG = gauge("worker_lag_records", "Messages behind the end of a partition", ("pipeline", "partition"))
REASONS_FAILED = counter("worker_reasons_failed_total", "Batches without reasons by an error", ("pipeline",))
REMEMBERED = gauge("worker_remembered_ids", "Ids held to drop repeats", ("pipeline",))
BATCH = histogram(
    "worker_batch_records",
    "Records per batch",
    ("pipeline",),
    buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 4096, 10_000),
)
BATCH_MS = histogram("worker_batch_ms", "One batch: decode to results handed to Kafka", ("pipeline",))
QUEUE_MS = histogram("worker_queue_ms", "On Kafka to batch start, the oldest of a batch", ("pipeline",))
