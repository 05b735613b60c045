"""The outside of a run, put together from the settings: store, broker, webhook."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from confluent_kafka import KafkaException

from core.clock import Clock
from core.errors import MillstreamError
from core.settings import Settings
from core.telemetry.log import logger
from jobs.sources.progress import Progress
from jobs.training.on_kafka import Published
from jobs.training.ports import Deploys, Surroundings, Tells
from jobs.training.webhook import Webhook
from models.store import Registry
from pipelines.changes import apply_topics
from pipelines.training.configuration import Configuration
from schemas.broker import admin
from schemas.catalog.experiments import EXPERIMENTS
from schemas.catalog.models import COMMANDS
from schemas.catalog.training import TOPICS

_ANSWER_S = 1.0
_log = logger("training")


@contextmanager
def surroundings(
    configuration: Configuration,
    settings: Settings,
    *,
    store: Registry,
    progress: Progress,
    clock: Clock,
    deploys: Deploys | None = None,
) -> Iterator[Surroundings]:
    """What the configuration asks for. Where no broker answers within a second the run does without: what
    would have been published is then noted as not published. `deploys` replaces the commands to the
    controller of routing."""
    tells: dict[str, Tells] = {}
    published = _published(settings, clock)
    try:
        if published is not None and configuration.notifications.topic:
            tells["topic"] = published
        webhook, secret = configuration.notifications.webhook, settings.training.webhook_secret
        if webhook is not None and secret is None:
            _log.warning("no webhook is called: set MILLSTREAM_TRAINING__WEBHOOK_SECRET", webhook=webhook)
        elif webhook is not None and secret is not None:
            timeout_s = settings.training.webhook_timeout_s
            tells["webhook"] = Webhook(webhook, secret=secret, timeout_s=timeout_s, clock=clock)
        yield Surroundings(
            store=store,
            progress=progress,
            deploys=deploys or published,
            experiments=published,
            tells=tells,
            processes=settings.training.processes or os.cpu_count() or 1,
        )
    finally:
        if published is not None:
            published.close()


def _published(settings: Settings, clock: Clock) -> Published | None:
    try:
        admin(settings).list_topics(timeout=_ANSWER_S)
        apply_topics([*TOPICS, EXPERIMENTS, COMMANDS], settings)
    except (KafkaException, MillstreamError) as error:
        _log.info("nothing is published: no broker answers", reason=str(error)[:200])
        return None
    return Published(settings, clock)
