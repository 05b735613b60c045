"""What every section of the settings has in common."""

from pydantic import BaseModel, ConfigDict

LOOPBACK = "127.0.0.1"


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
