"""What still works while something is away: the table of the README, and what its cells mean in requests.

Each cell has its words, and the answer to each request of its column: the status, and the code of the problem
or the level that answered.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

Answers = Mapping[str, str]

PUBLISHING, ASKING, READING, VERDICTS, PUSHING = "publishing", "asking", "reading", "verdicts", "pushing"
COLUMNS = (PUBLISHING, ASKING, READING, VERDICTS, PUSHING)
WELL: Mapping[str, Answers] = {
    PUBLISHING: {"event": "202", "user event": "202", "event of another key": "202"},
    ASKING: {"ask": "200 live", "ask later": "202", "outcome": "200"},
    READING: {
        "pushed status": "200",
        "older status": "200",
        "features": "200",
        "features of many": "200",
        "reviews": "200",
        "models": "200",
        "trainings": "200",
    },
    VERDICTS: {"verdict": "202"},
    PUSHING: {"events": "200", "named": "subscribed"},
}


@dataclass(frozen=True)
class Cell:
    """`answers` are those that are not as they are while all is well."""

    words: str
    answers: Answers = field(default_factory=dict)


@dataclass(frozen=True)
class Outage:
    """A row of the table. service: what is stopped, None where other tests do it. ready: whether a gateway
    says that it is. pushes: whether what is on Kafka is pushed meanwhile."""

    away: str
    service: str | None
    cells: Mapping[str, Cell]
    ready: bool = False
    pushes: bool = True

    def answers(self) -> dict[str, str]:
        """What each request is answered."""
        return {
            name: self.cells[column].answers.get(name, well)
            for column, answers in WELL.items()
            for name, well in answers.items()
        }


YES = Cell("yes")
KAFKA, REGISTRY = "503 kafka_unavailable", "503 registry_unavailable"
STORE, FEATURES = "503 outcomes_unavailable", "503 redis_unavailable"
DATABASE = "503 database_unavailable"

OUTAGES = (
    Outage(
        "a gateway",
        None,  # test_disturbed.py
        {
            PUBLISHING: YES,
            ASKING: Cell("yes, with the same answer for the same key"),
            READING: YES,
            VERDICTS: YES,
            PUSHING: Cell("from another gateway, resumed where it broke off"),
        },
    ),
    Outage(
        "a model, or its server",
        None,  # test_model_away.py
        {
            PUBLISHING: YES,
            ASKING: Cell(
                "503 where nothing stands in for it, after five in a row at once (`circuit_open`, "
                "for 5 s at a time)"
            ),
            READING: YES,
            VERDICTS: YES,
            PUSHING: YES,
        },
    ),
    Outage(
        "Kafka",
        "kafka",
        {
            PUBLISHING: Cell(
                "503 at once, `kafka_unavailable`",
                {"event": KAFKA, "user event": KAFKA, "event of another key": KAFKA},
            ),
            ASKING: Cell("503 at once; earlier answers can be fetched", {"ask": KAFKA, "ask later": KAFKA}),
            READING: YES,
            VERDICTS: Cell("503 at once", {"verdict": "503 audit_unavailable"}),
            PUSHING: Cell("sockets stay open, and go on after"),
        },
        pushes=False,
    ),
    Outage(
        "schema registry",
        "registry",
        {
            PUBLISHING: Cell(
                "503 at once, `registry_unavailable`",
                {"event": REGISTRY, "user event": REGISTRY, "event of another key": REGISTRY},
            ),
            ASKING: YES,
            READING: YES,
            VERDICTS: YES,
            PUSHING: YES,
        },
    ),
    Outage(
        "Redis",
        "redis",
        {
            PUBLISHING: Cell(
                "yes; a repeat with other content is then not always a 409 (the first one wins all the same)"
            ),
            ASKING: Cell(
                "answered without features, and says so; `respond-async` and `GET /requests/{id}` are 503",
                {"ask": "200 no_features", "ask later": STORE, "outcome": STORE},
            ),
            READING: Cell("yes, but features: 503", {"features": FEATURES, "features of many": FEATURES}),
            VERDICTS: YES,
            PUSHING: Cell("yes, but under a name: 503", {"named": "positions_unavailable"}),
        },
        ready=True,
    ),
    Outage(
        "PostgreSQL",
        "postgres",
        {
            PUBLISHING: Cell(
                "yes, with keys that were used in the last 5 minutes; others are 503",
                {"event of another key": "503 keys_unavailable"},
            ),
            ASKING: Cell("as publishing"),
            READING: Cell(
                "features, models, and the newest statuses that were pushed; others and reviews are 503",
                {"older status": DATABASE, "reviews": DATABASE},
            ),
            VERDICTS: Cell("503", {"verdict": DATABASE}),
            PUSHING: Cell("what is pushed was stored before: it comes after"),
        },
    ),
)


def table() -> str:
    """The table as the README has it."""
    head = ["away", *COLUMNS]
    rows = [[outage.away, *(outage.cells[column].words for column in COLUMNS)] for outage in OUTAGES]
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows))
