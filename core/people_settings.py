"""Settings of users, their sessions and tokens."""

from pydantic import Field

from core.sections import Allowance, Section


class People(Section):
    """Users, their sessions, and the tokens that this gateway issues."""

    issuer: str = Field("millstream", min_length=1, description="`iss` of the tokens that are issued here")
    audience: str = Field("millstream", min_length=1, description="`aud` of the tokens that are issued here")
    access_s: float = Field(600.0, ge=1, le=3600, description="how long an access token lasts")
    skew_s: float = Field(5.0, ge=0, le=60, description="how far the clocks of gateways may differ")
    idle_s: float = Field(86_400.0, ge=5, description="a session that is not refreshed for so long is over")
    longest_s: float = Field(30 * 86_400.0, ge=5, description="every session is over after")
    sessions: int = Field(20, ge=1, le=1000, description="sessions of one user; of more the oldest ends")
    grace_s: float = Field(
        300.0, ge=0, description="access tokens go on so long while Redis or PostgreSQL is away; then 503"
    )
    challenge_s: float = Field(300.0, ge=5, le=3600, description="time to answer a challenge")
    wrong_codes: int = Field(5, ge=1, le=20, description="wrong codes of a second factor before the pause")
    pause_s: float = Field(300.0, ge=1, description="the pause after them")
    login_address: Allowance = Field(
        Allowance(per_s=0.5, burst=30), description="attempts to log in from one address"
    )
    login_account: Allowance = Field(
        Allowance(per_s=0.05, burst=10), description="attempts to log in to one account"
    )
    hash_memory_kib: int = Field(65_536, ge=8, description="memory of one argon2id hash")
    hash_passes: int = Field(3, ge=1, description="passes of argon2id over it")
    hash_threads: int = Field(2, ge=1, le=64, description="passwords that are hashed at once")
    hash_queue: int = Field(32, ge=1, description="passwords that wait to be hashed; then 503")
    secret: str | None = Field(
        None,
        min_length=32,
        description="encrypts signing keys and second factors in PostgreSQL; the same on every gateway",
    )
