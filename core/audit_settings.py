"""Settings of the audit trail."""

from typing import Literal

from pydantic import Field

from core.sections import Section


class Audit(Section):
    """Who did what; on Kafka and in PostgreSQL."""

    addresses: Literal["network", "whole", "none"] = Field(
        "network", description="client addresses in entries: of IPv4 the first 24 bits, of IPv6 48; or all"
    )
    queue: int = Field(10_000, ge=100, description="entries that wait to be written; what is more is counted")
    kept_s: float = Field(5.0, gt=0, le=60, description="longest wait for Kafka to keep an entry; then 503")
    fold_s: float = Field(
        10.0, gt=0, le=600, description="equal refusals within so many seconds become one entry with a number"
    )
    heads_s: float = Field(
        60.0, gt=0, le=3600, description="how often the length of every chain is witnessed in another one"
    )
