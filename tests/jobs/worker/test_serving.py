"""The champion is followed; what is refused never replaces what works."""

import pytest

from core.errors import ModelError, ModelRefused, Unavailable, UnknownName
from jobs.worker.serving import Serving
from operators.ports import Scorer
from tests.jobs.worker.payments import Formula


class Source:
    """Versions in `bad` are refused; `loads` notes every attempt."""

    def __init__(self, champion: str = "1", bad: tuple[str, ...] = ()) -> None:
        self.name = champion
        self.bad = bad
        self.away = False
        self.loads: list[str] = []

    def champion(self) -> str:
        if self.away:
            raise Unavailable("the store is away")
        return self.name

    def load(self, version: str) -> Scorer:
        self.loads.append(version)
        if version in self.bad:
            raise ModelRefused("golden outputs differ")
        return Formula(version)


def serving(source: Source) -> Serving:
    started = Serving(source, pipeline="small", every_s=3600)
    started.start()
    started.stop()
    return started


def test_a_new_champion_goes_into_service() -> None:
    source = Source()
    served = serving(source)
    assert served.current.version == "1"
    assert not served.refresh()
    source.name = "2"
    assert served.refresh()
    assert served.current.version == "2"


def test_a_refused_version_leaves_the_previous_one_and_is_not_tried_again_and_again() -> None:
    source = Source(bad=("2",))
    served = serving(source)
    source.name = "2"
    for _ in range(3):
        assert not served.refresh()
    assert served.current.version == "1"
    assert source.loads == ["1", "2"]
    source.name = "3"
    assert served.refresh()
    assert served.current.version == "3"


def test_back_to_the_version_in_service_loads_nothing() -> None:
    source = Source(bad=("2",))
    served = serving(source)
    for name in ("2", "1", "1"):
        source.name = name
        assert not served.refresh()
    assert source.loads == ["1", "2"]


def test_a_store_that_is_away_changes_nothing() -> None:
    source = Source()
    served = serving(source)
    source.away = True
    assert not served.refresh()
    assert served.current.version == "1"


def test_a_model_that_broke_is_loaded_again_when_asked() -> None:
    source = Source()
    served = serving(source)
    broken = served.current
    assert served.refresh(again=True)
    assert served.current is not broken
    assert source.loads == ["1", "1"]


def test_a_first_model_that_is_refused_or_missing_is_the_callers_to_handle() -> None:
    with pytest.raises(ModelRefused):
        serving(Source(bad=("1",)))

    class Nothing(Source):
        def champion(self) -> str:
            raise UnknownName("model", "fraud", [])

    with pytest.raises(UnknownName):
        serving(Nothing())
    with pytest.raises(ModelError):
        _ = Serving(Source(), pipeline="small").current
