"""Where questions to LLMs wait for their answers, and what is said in conversations with them."""

from operators.generate import PIPELINE
from schemas.catalog.asking import REPLIES, requests_topic
from schemas.catalog.conversations import CONVERSATIONS
from schemas.catalog.models import SERVING_TOPICS

REQUESTS = requests_topic(PIPELINE, partitions=4)
TOPICS = (REQUESTS, REPLIES, CONVERSATIONS, *SERVING_TOPICS)
"""To be applied with `pipelines.changes.apply_topics` before anybody asks."""
