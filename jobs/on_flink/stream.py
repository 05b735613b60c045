"""What Flink computes of a plan, and the name its job and state go by."""

from collections.abc import Mapping
from dataclasses import dataclass

from core.errors import DeclarationError, InvalidInput, Unavailable
from core.ids import digest
from core.settings import Settings
from features.compile.flink import FlinkStream, Stream
from features.compile.flink_windows import WindowedStream
from jobs.on_flink.rest import FlinkRest
from pipelines.plan import FeaturesPlan, Plan, ScoringPlan


@dataclass(frozen=True)
class Replay:
    """Recorded events sent again through a live pipeline: event time goes back, so the job needs a state of
    its own, and begins where the replay does. Replays of one `name` share their state.

    since: the offset per partition of the source topic at which the replay begins.
    """

    name: str
    since: Mapping[int, int]


def format_offsets(since: Mapping[int, int]) -> str:
    """`partition:offset` of each, separated by commas."""
    return ",".join(f"{number}:{offset}" for number, offset in sorted(since.items()))


def parse_offsets(text: str) -> dict[int, int]:
    """What `format_offsets` wrote. Raises InvalidInput for anything else."""
    found = {}
    for part in text.split(","):
        number, colon, offset = part.partition(":")
        if not (colon and number.isdecimal() and offset.isdecimal()):
            raise InvalidInput(f"no offsets: {text!r}", mend="give partition:offset, separated by commas")
        found[int(number)] = int(offset)
    return found


def stream_of(plan: Plan) -> FlinkStream:
    """The part of a plan that is one Flink job."""
    if isinstance(plan, ScoringPlan):
        return Stream(
            pipeline=plan.pipeline,
            source=plan.source,
            view=plan.view,
            patterns=plan.patterns,
            enriched=plan.enriched,
            alerts=plan.alerts,
        )
    if isinstance(plan, FeaturesPlan):
        return WindowedStream(
            pipeline=plan.pipeline, source=plan.source, view=plan.view, rows=plan.rows, late=plan.late
        )
    raise DeclarationError(f"no stream for a {type(plan).__name__}", where=f"pipeline {plan.pipeline}")


def name_of(stream: FlinkStream, replay: Replay | None = None) -> str:
    """`<pipeline>-<first 12 of the lineage's digest>`, of a replay the digest of lineage and name."""
    state = stream.lineage if replay is None else digest(f"{stream.lineage}\n{replay.name}".encode())
    return f"{stream.pipeline}-{state[:12]}"


def job_name(plan: Plan) -> str:
    """The name of the plan's Flink job; another name means another state."""
    return name_of(stream_of(plan))


def running_job_names(settings: Settings) -> set[str]:
    """Names of the jobs that Flink runs; empty while Flink is away."""
    rest = FlinkRest(settings.flink.address, timeout_s=2.0)
    try:
        return {job.name for job in rest.jobs() if not job.ended}
    except Unavailable:
        return set()
    finally:
        rest.close()
