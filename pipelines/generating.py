"""Where questions to LLMs wait for their answers."""

from operators.generate import PIPELINE
from schemas.catalog.asking import REPLIES, requests_topic
from schemas.catalog.models import SERVING_TOPICS

REQUESTS = requests_topic(PIPELINE, partitions=4)
TOPICS = (REQUESTS, REPLIES, *SERVING_TOPICS)
"""To be applied with `pipelines.changes.apply_topics` before anybody asks."""
