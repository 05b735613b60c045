"""What sections of the settings are made of."""

from pydantic import BaseModel, ConfigDict, Field


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Allowance(Section):
    per_s: float = Field(gt=0, le=1e9, description="so many a second, in the long run")
    burst: int = Field(ge=1, description="so many at once after a rest")
