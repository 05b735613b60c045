"""A run of a view's own never touches a topic of the real pipeline."""

import pytest

from jobs.verification.shadow import shadow_of, stream_topics
from pipelines.load import load_plans

PLANS = load_plans()


@pytest.mark.parametrize("pipeline", PLANS)
def test_every_topic_of_a_shadow_is_its_own(pipeline: str) -> None:
    plan = PLANS[pipeline]
    names = [topic.name for topic in stream_topics(shadow_of(plan, "verify-x"))]
    assert len(names) >= 2
    assert [name for name in names if not name.startswith("verify-x.")] == []
    assert not set(names) & {topic.name for topic in plan.topics}
