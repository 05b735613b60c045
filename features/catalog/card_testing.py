"""Card testing: a thief tries a stolen card with small payments, then makes a large one."""

from datetime import timedelta

from features.patterns import Pattern, Step, Where
from schemas.catalog.transactions import Transaction

CARD_TESTING = Pattern(
    name="card_testing",
    version=1,
    source=Transaction,
    entity="card_id",
    steps=(
        Step("small", Where("amount_cents", "<=", 2_000), at_least=3, or_more=True),
        Step("large", Where("amount_cents", ">=", 20_000)),
    ),
    within=timedelta(minutes=10),
    severity="high",
    text="{small.count} small payments, then {amount_cents} cents, within 10 minutes on card {card_id}",
)
