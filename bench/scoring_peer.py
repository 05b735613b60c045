"""What the peers of the scoring benchmark share: the model and the result, written by hand, row by row."""

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import xgboost

from bench.scoring_corpus import MODEL, Corpus, record_of
from core.settings import settings
from models.signature import parse
from models.store import BOOSTER, SIGNATURE, ModelStore
from models.store import MODEL as MODEL_FILE
from pipelines.catalog.fraud import RESULTS
from schemas.avro import schema_text
from schemas.registry import SchemaRegistry


class HandModel:
    """What a hand-written scorer has at hand: the session, the vocabulary, the booster for reasons."""

    def __init__(self, corpus: Corpus) -> None:
        stored = ModelStore(Path(corpus.models)).resolve(MODEL)
        self.signature = parse(stored.read(SIGNATURE), where=stored.where)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(
            stored.read(MODEL_FILE), options, providers=["CPUExecutionProvider"]
        )
        self.version = stored.version
        self.booster = xgboost.Booster({"nthread": 1})
        self.booster.load_model(bytearray(stored.read(BOOSTER)))
        self.columns = [
            (i.column, {word: float(n) for n, word in enumerate(i.vocabulary)} if i.vocabulary else None)
            for i in self.signature.inputs
        ]
        self.names = [item.column for item in self.signature.inputs]

    def features(self, row: dict[str, Any]) -> list[float]:
        nan = float("nan")
        values = []
        for column, words in self.columns:
            value = row[column]
            if words is not None:
                value = words.get(value)
            values.append(nan if value is None else value)
        return values

    def score(self, features: list[list[float]]) -> tuple[Any, Any]:
        matrix = np.array(features, dtype=np.float32)
        return matrix, self.session.run(None, {"inputs": matrix})[0]

    def reasons(self, matrix: Any) -> list[list[dict[str, Any]]]:
        shares = self.booster.predict(xgboost.DMatrix(matrix), pred_contribs=True, approx_contribs=True)
        found = []
        for row in shares[:, :-1]:
            best = sorted(zip(row.tolist(), self.names, strict=True), key=lambda pair: -pair[0])[:4]
            found.append([{"input": name, "contribution": share} for share, name in best if share > 0])
        return found

    def result(self, row: dict[str, Any], score: float, times: dict[str, Any]) -> dict[str, Any]:
        if score > 80:
            decision, status = "block", "blocked"
        elif score < 20:
            decision, status = "confirm", "confirmed"
        else:
            decision, status = "review", "in_review"
        return {
            "tenant": row["tenant"],
            "id": row["id"],
            "entity": row["card_id"],
            "occurred_at": row["occurred_at"],
            "pipeline": "fraud",
            "score": score,
            "decision": decision,
            "status": status,
            "model": MODEL,
            "model_version": self.version,
            "assignment_unit": row["card_id"],
            "late": row["late"],
            "feature_time": row["occurred_at"],
            "reasons": [],
            "source": row["source"],
            "traceparent": row["traceparent"],
            "received_at": row["received_at"],
            **times,
        }


def result_head() -> bytes:
    """The wire header of a result: magic byte and schema id, as a hand-written client asks for it once."""
    number = SchemaRegistry.of(settings()).id_of(RESULTS.subject, schema_text(record_of(RESULTS).spec()))
    return b"\x00" + number.to_bytes(4)
