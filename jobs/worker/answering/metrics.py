"""What an answering host tells Prometheus."""

from core.telemetry.metrics import counter, gauge, histogram

ENDED = counter("answering_ended_total", "Requests that ended, by state", ("pipeline", "state"))
REPEATED = counter(
    "answering_repeated_total", "Repeats answered from the store, or with work under way", ("pipeline",)
)
WORKING = gauge("answering_working", "Requests that are being answered", ("pipeline",))
WORK_MS = histogram("answering_work_ms", "From taken up to ended", ("pipeline",))
QUEUE_MS = histogram("answering_queue_ms", "On Kafka to taken up", ("pipeline",))
BATCH = histogram(
    "answering_batch_records",
    "Records that one call of the model scored",
    ("pipeline",),
    buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024),
)
STORE_AWAY = counter(
    "answering_store_away_total", "Times the outcome store could not be asked or told", ("pipeline",)
)
SESSIONS = counter(
    "answering_sessions_total", "Kafka sessions begun; above one means recovery", ("pipeline",)
)
