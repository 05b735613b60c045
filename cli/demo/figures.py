"""What a demo run measured, and whether it held what it promises."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np

STAGES = ("validate", "publish", "features", "queue", "model", "decide", "store", "push", "total")
STATUSES = ("blocked", "in_review", "confirmed")


@dataclass
class Tally:
    """What was accepted and what came back, by id; the independent record that results are held against."""

    accepted: set[str] = field(default_factory=set)
    refused: Counter[str] = field(default_factory=Counter)
    seen: dict[str, str] = field(default_factory=dict)
    scores: dict[str, float] = field(default_factory=dict)
    repeats: int = 0
    strangers: int = 0
    late: int = 0
    degraded: int = 0
    stages: dict[str, list[float]] = field(default_factory=lambda: {stage: [] for stage in STAGES})
    warm_up: list[float] = field(default_factory=list)

    def result(self, id: str, status: str, *, score: float | None, late: bool, degraded: bool) -> bool:
        """Count one visible result; whether it was the first of its id."""
        if id in self.seen:
            self.repeats += 1
            return False
        self.seen[id] = status
        if score is not None:
            self.scores[id] = score
        self.late += late
        self.degraded += degraded
        return True

    @property
    def lost(self) -> int:
        return len(self.accepted - self.seen.keys())

    def decisions(self) -> Counter[str]:
        return Counter(self.seen.values())

    def warmed_up(self) -> None:
        """What was timed so far was the warm-up; from here on the run itself is timed."""
        self.warm_up = self.stages["total"]
        self.stages = {stage: [] for stage in STAGES}

    def percentiles(self) -> dict[str, dict[str, float]]:
        return {stage: percentiles(values) for stage, values in self.stages.items() if values}


def percentiles(values: list[float]) -> dict[str, float]:
    """p50 and p99 of milliseconds, to a hundredth."""
    if not values:
        return {}
    p50, p99 = np.percentile(np.asarray(values), (50, 99))
    return {"p50": round(float(p50), 2), "p99": round(float(p99), 2)}


def auc(labels: Any, scores: Any) -> float | None:
    """Area under the ROC curve; None when only one class is there."""
    from sklearn.metrics import roc_auc_score

    labels = np.asarray(labels)
    if len(np.unique(labels)) < 2:
        return None
    return round(float(roc_auc_score(labels, scores)), 4)


def average_precision(labels: Any, scores: Any) -> float | None:
    from sklearn.metrics import average_precision_score

    labels = np.asarray(labels)
    if len(np.unique(labels)) < 2:
        return None
    return round(float(average_precision_score(labels, scores)), 4)


def failures(report: dict[str, Any]) -> list[str]:
    """Every promise of the demo that this run broke; empty when all held."""
    features = report["features"]
    broken = []
    for name in ("lost", "duplicates"):
        if report[name]:
            broken.append(f"{name} = {report[name]}, must be 0")
    for name in ("mismatched", "missing", "extra"):
        if features[name]:
            broken.append(f"features {name} = {features[name]}, must be 0")
    expected = report["accepted"] - report["late"] - report["dead_lettered"]
    if features["checked"] != expected:
        broken.append(f"features checked = {features['checked']}, must be {expected}")
    if report["accepted"] and report["late"] > 0.01 * report["accepted"]:
        broken.append(f"late = {report['late']}, more than 1 % of {report['accepted']}")
    if features["rows_evicted"] <= 0:
        broken.append("no row ever left a window: eviction was not tested")
    stream, offline = report["auc_stream"], report["auc_offline"]
    if stream is not None and offline is not None and abs(stream - offline) > 0.002:
        broken.append(f"auc_stream {stream} is not within 0.002 of auc_offline {offline}")
    return broken
