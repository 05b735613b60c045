"""Card fraud: each payment is scored with what its card did lately, then blocked, confirmed or reviewed."""

from datetime import timedelta

from features.catalog.card_activity import CARD_ACTIVITY
from features.catalog.card_testing import CARD_TESTING
from features.enriched import enriched_record
from operators.decide import Band, Bands
from pipelines.builder import DEAD_LETTERS, Pipeline, pipeline
from pipelines.plan import Levels, Reuse
from schemas.catalog.decisions import Decision, StatusChange, Verdict
from schemas.catalog.transactions import Transaction
from schemas.topic import Topic

MONTH = timedelta(days=30)

TRANSACTIONS = Topic(
    "fraud.transactions.events.v1",
    Transaction,
    retention=MONTH,
    max_bytes=131_072,
    data_class="confidential",
)
ENRICHED = Topic(
    "fraud.transactions.enriched.v1",
    enriched_record(Transaction, CARD_ACTIVITY),
    retention=MONTH,
    append_time=True,
)
RESULTS = Topic("fraud.transactions.results.v1", Decision, retention=MONTH)
STATUS = Topic("fraud.transactions.status.v1", StatusChange, retention=timedelta(days=7))
LABELS = Topic("fraud.transactions.labels.v1", Verdict, retention=timedelta(days=365))

BANDS = Bands(
    (
        Band("block", "blocked", above=80),
        Band("confirm", "confirmed", below=20, explain=False),
    ),
    otherwise=Band("review", "in_review"),
)


@pipeline("fraud", version=1, unrouted=DEAD_LETTERS)
def fraud(p: Pipeline) -> None:
    payments = p.read(TRANSACTIONS)
    payments.alert_on(CARD_TESTING)
    enriched = payments.enrich(CARD_ACTIVITY, to=ENRICHED)
    scored = enriched.infer("fraud", batch=512, wait=timedelta(milliseconds=5))
    decided = scored.ok.decide(BANDS)
    p.write(decided.ok, RESULTS)
    p.follow(status=STATUS, labels=LABELS)
    p.ask(
        levels=Levels(decision="review"),  # without a score a person looks at it
        reuse=Reuse(timedelta(seconds=10)),  # of the same payment: another one has another time
    )
