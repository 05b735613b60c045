"""Card payments, with the columns of the IEEE-CIS fraud data.

120 columns: whose, which, when and how much, then 115 attributes. The data has 117 attributes; the two
left out (`V27` and `V305`, nearly constant) gained nothing in training. Names are the data's in lower case.
"""

from datetime import datetime
from typing import Annotated

from msgspec import Meta

from schemas.record import Int32, Record, record

Whole = Int32
Real = Annotated[float, Meta(ge=-1e12, le=1e12)]
Text = Annotated[str, Meta(max_length=255)]


@record(entity="card_id", time="occurred_at", namespace="millstream.fraud")
class Transaction(Record, frozen=True, kw_only=True):
    """A card payment to be scored. Attributes that are not known are null."""

    card_id: Annotated[
        str, Meta(min_length=1, max_length=64, description="card1-card2-addr1; `x` stands for unknown")
    ]
    occurred_at: Annotated[datetime, Meta(tz=True, description="when the card was used")]
    amount_cents: Annotated[int, Meta(ge=0, le=10**12, description="amount in cents")]
    # What was bought, the card and the addresses as the issuer codes them.
    product: Text
    card1: Whole
    card2: Whole | None = None
    card3: Whole | None = None
    card5: Whole | None = None
    addr1: Whole | None = None
    addr2: Whole | None = None
    email_domain: Text | None = None
    # Counts kept by the processor: addresses, phones and so on seen with the card.
    c1: Whole
    c2: Whole
    c3: Whole
    c4: Whole
    c5: Whole
    c6: Whole
    c7: Whole
    c8: Whole
    c9: Whole
    c10: Whole
    c11: Whole
    c12: Whole
    c13: Whole
    c14: Whole
    # Rankings, counts and sums engineered by the processor; their meaning is not published.
    v13: Whole | None = None
    v14: Whole | None = None
    v15: Whole | None = None
    v16: Whole | None = None
    v17: Whole | None = None
    v18: Whole | None = None
    v19: Whole | None = None
    v28: Whole | None = None
    v32: Whole | None = None
    v95: Whole | None = None
    v96: Whole | None = None
    v97: Whole | None = None
    v98: Whole | None = None
    v99: Whole | None = None
    v100: Whole | None = None
    v101: Whole | None = None
    v102: Whole | None = None
    v116: Whole | None = None
    v117: Whole | None = None
    v118: Whole | None = None
    v119: Whole | None = None
    v120: Whole | None = None
    v126: Real | None = None
    v127: Real | None = None
    v145: Whole | None = None
    v153: Whole | None = None
    v154: Whole | None = None
    v157: Whole | None = None
    v158: Whole | None = None
    v166: Real | None = None
    v235: Whole | None = None
    v279: Whole | None = None
    v280: Whole | None = None
    v284: Whole | None = None
    v285: Whole | None = None
    v286: Whole | None = None
    v287: Whole | None = None
    v290: Whole | None = None
    v291: Whole | None = None
    v292: Whole | None = None
    v293: Whole | None = None
    v294: Whole | None = None
    v295: Whole | None = None
    v297: Whole | None = None
    v298: Whole | None = None
    v299: Whole | None = None
    v300: Whole | None = None
    v301: Whole | None = None
    v302: Whole | None = None
    v303: Whole | None = None
    v304: Whole | None = None
    v306: Real | None = None
    v307: Real | None = None
    v308: Real | None = None
    v309: Real | None = None
    v310: Real | None = None
    v311: Real | None = None
    v312: Real | None = None
    v313: Real | None = None
    v316: Real | None = None
    v317: Real | None = None
    v318: Real | None = None
    v319: Real | None = None
    v320: Real | None = None
    v321: Real | None = None
    v322: Whole | None = None
    v323: Whole | None = None
    v324: Whole | None = None
    v325: Whole | None = None
    v326: Whole | None = None
    v327: Whole | None = None
    v328: Whole | None = None
    v329: Whole | None = None
    v330: Whole | None = None
    v331: Real | None = None
    v332: Real | None = None
    v333: Real | None = None
    v334: Real | None = None
    v335: Real | None = None
    v336: Real | None = None
    v337: Real | None = None
    v338: Real | None = None
    v339: Real | None = None
    # The device and the connection, where the payment had any.
    id_08: Whole | None = None
    id_13: Whole | None = None
    id_16: Text | None = None
    id_17: Whole | None = None
    id_19: Whole | None = None
    id_20: Whole | None = None
    id_21: Whole | None = None
    id_26: Whole | None = None
    id_27: Text | None = None
    device_info: Text | None = None
