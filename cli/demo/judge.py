"""The judge of a run: features and scores computed again from the recorded events, by other means."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from cli.demo.figures import auc, average_precision
from core.settings import Settings
from features.judge.verify import VerifyReport, verify
from features.offline import history
from models.load import LoadedModel
from pipelines import recorded
from pipelines.plan import ScoringPlan
from pipelines.recorded import Offsets


@dataclass(frozen=True)
class Recording:
    """Where the topics of a pipeline ended when a run began."""

    events: Offsets
    enriched: Offsets
    dead: Mapping[str, Offsets]

    @classmethod
    def start(cls, plan: ScoringPlan, settings: Settings) -> "Recording":
        dead = {topic.name: recorded.ends(topic.dlq, settings) for topic in (plan.source, plan.enriched)}
        return cls(recorded.ends(plan.source, settings), recorded.ends(plan.enriched, settings), dead)


@dataclass(frozen=True)
class Judgement:
    """`labels` and `offline` are of the rows asked for, in their order."""

    features: VerifyReport
    dead_lettered: int
    offline_scores: dict[str, float]


def judge(
    plan: ScoringPlan,
    settings: Settings,
    model: LoadedModel,
    *,
    since: Recording,
    tenant: str,
    wanted: set[str],
) -> Judgement:
    """Compare the streamed features of a tenant's events with the view over the same events in DuckDB, and
    score the events in `wanted` with the latter."""
    events = recorded.read(plan.source, settings, since=since.events, tenant=tenant)
    streamed = recorded.read(plan.enriched, settings, since=since.enriched, tenant=tenant)
    dead = sum(
        recorded.count(topic.dlq, settings, since=since.dead[topic.name], tenant=tenant)
        for topic in (plan.source, plan.enriched)
    )
    return Judgement(
        features=verify(plan.view, events, streamed),
        dead_lettered=dead,
        offline_scores=_scores(plan, model, events, wanted),
    )


def _scores(plan: ScoringPlan, model: LoadedModel, events: pa.Table, wanted: set[str]) -> dict[str, float]:
    """Scores of the first event per id, features from history over all of them."""
    if not wanted:
        return {}
    first = history.first_per_id(events)
    computed = history.compute(plan.view, first)
    columns = {name: first.column(name) for name in first.column_names}
    columns |= {name: computed.column(name) for name in plan.view.feature_names}
    table = pa.table(columns).filter(pc.is_in(first.column("id"), pa.array(sorted(wanted), pa.string())))
    scores: dict[str, float] = {}
    for batch in table.to_batches(max_chunksize=4096):
        values = model.score(model.encode(batch))
        scores.update(zip(batch.column("id").to_pylist(), (float(v) * 100 for v in values), strict=True))
    return scores


def quality(labels: dict[str, int], scores: dict[str, float]) -> dict[str, Any]:
    """AUC and average precision over the ids that have both."""
    both = [id for id in labels if id in scores]
    truth = [labels[id] for id in both]
    values = [scores[id] for id in both]
    return {"rows": len(both), "auc": auc(truth, values), "ap": average_precision(truth, values)}
