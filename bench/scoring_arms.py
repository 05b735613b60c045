"""The arms of the scoring benchmark, each a process of its own that makes a pass when told to.

`python -m bench.scoring_arms ARM CORPUS`: reads lines `OUTPUT_TOPIC ROWS` and answers each with one line of
JSON: CPU and wall seconds of the pass and the rows, from the first message to the last acknowledgement and
commit. CPU is that of the process with all threads, the Kafka client's included.
"""

import gc
import io
import json
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import fastavro
import numpy as np
import psutil
from confluent_kafka import Consumer, TopicPartition

from bench.scoring_corpus import MODEL, Corpus, load_rows, record_of
from bench.scoring_peer import HandModel, result_head
from core import collector
from core.clock import SystemClock, from_millis
from core.ids import new_id
from core.settings import settings
from core.telemetry.probe import Probe
from features.catalog.card_activity import CARD_ACTIVITY
from jobs.worker.batch import BatchWork
from jobs.worker.host import Host, Route
from jobs.worker.main import limits
from jobs.worker.outbox import PRODUCER_SETTINGS, SessionOutbox
from jobs.worker.readback import Readback
from jobs.worker.scoring import Declared, Scoring
from jobs.worker.serving import Serving
from models.encode import Encoder
from models.load import StoredModels
from models.store import ModelStore
from operators.decide import Bands
from operators.dedupe import Dedupe
from operators.error_rates import ErrorRates
from pipelines.catalog.fraud import BANDS, ENRICHED, RESULTS
from pipelines.load import load_scoring
from pipelines.outbox import Outbox
from schemas import broker
from schemas.avro import schema_text
from schemas.codec import RecordCodec
from schemas.registry import SchemaRegistry

BATCH = 512
Pass = Callable[[str, int], dict[str, float]]


def without_reasons(bands: Bands) -> Bands:
    return Bands(
        tuple(replace(band, explain=False) for band in bands.bands), replace(bands.otherwise, explain=False)
    )


def ours(corpus: Corpus, bands: Bands) -> Pass:
    """The worker as it is: `jobs.worker`'s host, batch, scoring and outbox on a fresh group per pass."""
    registry = SchemaRegistry.of(settings())
    clock = SystemClock()
    decoder = RecordCodec(record_of(ENRICHED), registry, ENRICHED.subject, max_bytes=ENRICHED.max_bytes)
    encoder = RecordCodec(record_of(RESULTS), registry, RESULTS.subject, max_bytes=RESULTS.max_bytes)
    serving = Serving(StoredModels(ModelStore(Path(corpus.models)), MODEL), pipeline="bench", every_s=3600)
    serving.start()
    bounds = limits(load_scoring("fraud"), settings())
    declared = Declared("fraud", "card_id", "occurred_at", CARD_ACTIVITY.feature_names, bands, bounds.batch)
    scoring = Scoring(declared, clock=clock, reader=None)
    collector.calm()  # as the worker does

    def run(output: str, rows: int) -> dict[str, float]:
        stop = threading.Event()
        meter = Meter()
        work = Counted(
            rows,
            stop,
            meter,
            decoder=decoder,
            encoder=encoder,
            dedupe=Dedupe(),
            scoring=scoring,
            clock=clock,
            rates=ErrorRates("bench", clock),
        )
        dead: set[tuple[int, int]] = set()
        outbox = Outbox(lambda: broker.producer(settings(), **PRODUCER_SETTINGS))
        host = Host(
            connect=lambda committed: broker.consumer(
                settings(),
                f"bench-{new_id()}",
                on_commit=committed,
                partition_assignment_strategy="cooperative-sticky",
            ),
            outbox=SessionOutbox(outbox, topic=output, job="bench", clock=clock, dead=dead),
            work=work,
            serving=serving,
            readback=Readback(
                lambda: broker.consumer(settings(), None, enable_partition_eof=True), clock=clock
            ),
            results_codec=encoder,
            dead=dead,
            route=Route("bench", corpus.source, output, output),
            limits=bounds,
            clock=clock,
            probe=Probe(),
            stop=stop,
        )
        host.run()
        measured = meter.read(work.seen)
        del host
        gc.collect()  # the clients of this pass, before the next one
        return measured

    return run


class Meter:
    """CPU and wall since the first message: joining a group is not a cost per record."""

    def __init__(self) -> None:
        self._cpu = self._wall = 0.0

    def first(self) -> None:
        if not self._wall:
            self._cpu, self._wall = time.process_time(), time.perf_counter()

    def read(self, rows: int) -> dict[str, float]:
        return {
            "cpu": time.process_time() - self._cpu,
            "wall": time.perf_counter() - self._wall,
            "rows": rows,
            "rss_mb": psutil.Process().memory_info().rss / 1e6,
        }


class Counted(BatchWork):
    """The batch work, told to stop once it has seen all rows."""

    def __init__(self, rows: int, stop: threading.Event, meter: Meter, **parts: Any) -> None:
        super().__init__(**parts)
        self._rows, self._stop_host, self._meter = rows, stop, meter
        self.seen = 0

    def work(self, inputs: Any, scorer: Any) -> Any:
        self._meter.first()
        outputs = super().work(inputs, scorer)
        self.seen += len(inputs)
        if self.seen >= self._rows:
            self._stop_host.set()
        return outputs


def hand(corpus: Corpus, reasons: bool) -> Pass:
    """A loop as one writes it by hand: confluent-kafka, fastavro, the same session, batches of 512."""
    model = HandModel(corpus)
    reader = fastavro.parse_schema(json.loads(schema_text(record_of(ENRICHED).spec())))
    writer = fastavro.parse_schema(json.loads(schema_text(record_of(RESULTS).spec())))
    head = result_head()

    def run(output: str, rows: int) -> dict[str, float]:
        meter = Meter()
        consumer: Consumer = broker.consumer(settings(), f"bench-{new_id()}")
        consumer.subscribe([corpus.source])
        producer = broker.producer(settings())
        clock = SystemClock()
        seen = 0
        while seen < rows:
            messages = consumer.consume(BATCH, timeout=0.005 if seen else 0.2)
            if not messages:
                continue
            meter.first()
            started = clock.now()
            decoded = []
            for message in messages:
                if message.error():
                    raise RuntimeError(message.error())
                decoded.append(fastavro.schemaless_reader(io.BytesIO(message.value()[5:]), reader, None))
            began = time.perf_counter()
            matrix, probabilities = model.score([model.features(row) for row in decoded])
            model_ms = (time.perf_counter() - began) * 1000
            began = time.perf_counter()
            results = []
            for message, row, probability in zip(messages, decoded, probabilities, strict=True):
                enriched_at = from_millis(message.timestamp()[1])
                times = {
                    "enriched_at": enriched_at,
                    "decided_at": clock.now(),
                    "queue_ms": (started - enriched_at) / timedelta(milliseconds=1),
                    "model_ms": model_ms,
                    "decide_ms": (time.perf_counter() - began) * 1000,
                }
                results.append(model.result(row, float(probability * np.float32(100)), times))
            if reasons:
                need = [n for n, result in enumerate(results) if result["decision"] != "confirm"]
                if need:
                    for n, found in zip(need, model.reasons(matrix[need]), strict=True):
                        results[n]["reasons"] = found
            for message, result in zip(messages, results, strict=True):
                stream = io.BytesIO()
                stream.write(head)
                fastavro.schemaless_writer(stream, writer, result)
                producer.produce(
                    output, key=message.key(), value=stream.getvalue(), partition=message.partition()
                )
            producer.flush()
            consumer.commit(
                offsets=[
                    TopicPartition(corpus.source, p, o + 1)
                    for p, o in {m.partition(): m.offset() for m in messages}.items()
                ],
                asynchronous=True,
            )
            seen += len(messages)
        consumer.close()
        return meter.read(seen)

    return run


def model_only(corpus: Corpus) -> Pass:
    """The model call alone, on the same rows in batches of 512."""
    stored = ModelStore(Path(corpus.models)).resolve(MODEL)
    loaded = StoredModels(ModelStore(Path(corpus.models)), MODEL).load(stored.version)
    matrix = Encoder(loaded.signature).encode(load_rows(corpus))
    parts = [np.ascontiguousarray(matrix[start : start + BATCH]) for start in range(0, len(matrix), BATCH)]

    def run(output: str, rows: int) -> dict[str, float]:
        del output
        meter = Meter()
        meter.first()
        done = 0
        for part in parts:
            loaded.score(part)
            done += len(part)
            if done >= rows:
                break
        return meter.read(done)

    return run


ARMS: dict[str, Callable[[Corpus], Pass]] = {
    "ours": lambda corpus: ours(corpus, BANDS),
    "ours-without-reasons": lambda corpus: ours(corpus, without_reasons(BANDS)),
    "hand": lambda corpus: hand(corpus, True),
    "hand-without-reasons": lambda corpus: hand(corpus, False),
    "model": model_only,
}


def serve(arm: Pass) -> None:
    """One pass per line of stdin, one line of JSON each."""
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for line in sys.stdin:
        output, rows = line.split()
        sys.stdout.write(json.dumps(arm(output, int(rows))) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    serve(ARMS[sys.argv[1]](Corpus.read(Path(sys.argv[2]))))
