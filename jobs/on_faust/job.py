"""What one Faust agent computes."""

from dataclasses import dataclass
from datetime import timedelta

from core.errors import DeclarationError
from features.compile.flink import check_source
from features.compile.running import check_running
from features.feature_rows import feature_record
from features.view import FeatureView
from schemas.topic import Topic

HORIZON = timedelta(hours=24)


@dataclass(frozen=True)
class FaustJob:
    """A tumbling view of a pipeline over its source.

    rows: a topic of `features.feature_rows.feature_record(view)`. late: a topic of the source's record.
    horizon: how long in event time a (tenant, id) is remembered after it was last seen.

    Raises DeclarationError for a view that `features.compile.running.check_running` refuses, for topics that
    do not fit it, and for a horizon that is shorter than a window and the disorder together.
    """

    pipeline: str
    source: Topic
    view: FeatureView
    rows: Topic
    late: Topic
    horizon: timedelta = HORIZON

    def __post_init__(self) -> None:
        window = check_running(self.view)
        check_source(self)
        fits = {self.rows: feature_record(self.view).spec().names, self.late: self.view.source.spec().names}
        for topic, names in fits.items():
            if topic.record is None or topic.record.spec().names != names:
                raise DeclarationError(
                    f"topic {topic.name} has another record than what is written to it",
                    where=f"pipeline {self.pipeline}",
                    mend="make the topics with features.feature_rows: features_topic and late_topic",
                )
            if topic.partitions != self.source.partitions:
                raise DeclarationError(
                    f"topic {topic.name} has {topic.partitions} partitions, {self.source.name} has "
                    f"{self.source.partitions}",
                    where=f"pipeline {self.pipeline}",
                    mend="give the topics of one path equal partition counts",
                )
        if self.horizon < window.size + self.view.disorder:
            raise DeclarationError(
                f"a horizon of {self.horizon} for windows of {window.size}",
                where=f"pipeline {self.pipeline}",
                mend="remember ids for at least a window and the disorder bound",
            )

    @property
    def name(self) -> str:
        """The consumer group: one state per pipeline, view and version."""
        return f"millstream-{self.pipeline}-faust-{self.view.name}-v{self.view.version}"
