"""What a gateway serves, as far as its documents tell of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from core.settings import Settings
from features.online.selection import Readable
from gateway.intake import Intake
from gateway.push.feed import Feed
from pipelines.plan import Plan, ScoringPlan


@dataclass(frozen=True)
class Served:
    """intakes: the doors of the pipelines that take events, by pipeline. feeds: what is pushed. llm: whether
    prompts are answered."""

    settings: Settings
    plans: Mapping[str, Plan]
    intakes: Mapping[str, Intake]
    readable: Readable
    feeds: Sequence[Feed]
    llm: bool = False

    @property
    def asked(self) -> dict[str, ScoringPlan]:
        """The pipelines that can be asked for a score."""
        return {
            name: plan
            for name, plan in sorted(self.plans.items())
            if isinstance(plan, ScoringPlan) and name in self.intakes
        }
