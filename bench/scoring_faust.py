"""The Faust arm of the scoring benchmark: one agent, one pass.

`python -m bench.scoring_faust CORPUS OUTPUT_TOPIC ROWS REASONS` prints one line of JSON as the other arms do.
CPU runs from the first event to the last acknowledgement, so that Faust's start is not counted.
"""

import io
import json
import os
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import fastavro
import faust
import numpy as np

from bench.scoring_corpus import Corpus, record_of
from bench.scoring_peer import HandModel, result_head
from core.clock import SystemClock, from_millis
from core.ids import new_id
from core.settings import settings
from pipelines.catalog.fraud import ENRICHED, RESULTS
from schemas.avro import schema_text


def main(corpus: Corpus, output: str, rows: int, reasons: bool) -> None:
    model = HandModel(corpus)
    reader = fastavro.parse_schema(json.loads(schema_text(record_of(ENRICHED).spec())))
    writer = fastavro.parse_schema(json.loads(schema_text(record_of(RESULTS).spec())))
    head = result_head()
    clock = SystemClock()
    app = faust.App(
        f"bench-faust-{new_id()}",
        broker=f"kafka://{settings().kafka.address}",
        key_serializer="raw",
        value_serializer="raw",
        web_enabled=False,
        topic_disable_leader=True,
        consumer_auto_offset_reset="earliest",
        producer_acks=-1,
        datadir=str(Path(corpus.models).parent / "faust"),
    )
    source = app.topic(corpus.source, key_type=bytes, value_type=bytes)
    results = app.topic(output, key_type=bytes, value_type=bytes)
    cpu = wall = 0.0
    seen = 0

    @app.agent(source)  # type: ignore[untyped-decorator]
    async def score(stream: Any) -> None:
        nonlocal cpu, wall, seen
        async for event in stream.events():
            if not seen:
                cpu, wall = time.process_time(), time.perf_counter()
            started = clock.now()
            row = fastavro.schemaless_reader(io.BytesIO(event.value[5:]), reader, None)
            began = time.perf_counter()
            matrix, probabilities = model.score([model.features(row)])
            scored = time.perf_counter()
            enriched_at = from_millis(int(event.message.timestamp * 1000))
            times = {
                "enriched_at": enriched_at,
                "decided_at": clock.now(),
                "queue_ms": (started - enriched_at) / timedelta(milliseconds=1),
                "model_ms": (scored - began) * 1000,
                "decide_ms": 0.0,
            }
            result = model.result(row, float(probabilities[0] * np.float32(100)), times)
            if reasons and result["decision"] != "confirm":
                result["reasons"] = model.reasons(matrix)[0]
            stream_out = io.BytesIO()
            stream_out.write(head)
            fastavro.schemaless_writer(stream_out, writer, result)
            await results.send(key=event.key, value=stream_out.getvalue(), partition=event.message.partition)
            seen += 1
            if seen >= rows:
                await app.producer.flush()
                done = {
                    "cpu": time.process_time() - cpu,
                    "wall": time.perf_counter() - wall,
                    "rows": seen,
                }
                sys.stdout.write("\n" + json.dumps(done) + "\n")  # after Faust's control characters
                sys.stdout.flush()
                os._exit(0)

    faust.Worker(app, loglevel="error", redirect_stdouts=False, quiet=True).execute_from_commandline()


if __name__ == "__main__":
    main(Corpus.read(Path(sys.argv[1])), sys.argv[2], int(sys.argv[3]), sys.argv[4] == "reasons")
