"""Following the topics of trainings where there are none: told once, until there is another trouble."""

import time
from collections.abc import Callable
from typing import Any

import pytest
import structlog
from confluent_kafka import Consumer, KafkaError, KafkaException
from structlog.testing import CapturingLogger

from core.settings import settings
from gateway import training_states
from gateway.training_states import TrainingStates


class Refused(Consumer):
    """A client whose broker answers with the errors of `codes`, one after the other, the last for good."""

    codes: list[int] = []
    asked = 0

    def get_watermark_offsets(self, *args: Any, **more: Any) -> Any:
        del args, more
        Refused.asked += 1
        raise KafkaException(KafkaError(self.codes.pop(0) if len(self.codes) > 1 else self.codes[0]))


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_an_absent_topic_is_told_once_until_it_is_another_trouble(monkeypatch: pytest.MonkeyPatch) -> None:
    told = CapturingLogger()
    monkeypatch.setattr(training_states, "_log", structlog.wrap_logger(told, processors=[]))
    monkeypatch.setattr(training_states, "_AGAIN_S", 0.01)
    monkeypatch.setattr(Refused, "codes", [KafkaError.UNKNOWN_TOPIC_OR_PART] * 5 + [KafkaError._TRANSPORT])
    states = TrainingStates(
        settings(), lambda: Refused({"bootstrap.servers": "127.0.0.1:1", "group.id": "none", "log_level": 0})
    )
    states.start()
    try:
        until(lambda: Refused.asked >= 8)
    finally:
        states.close()
    reasons = [call.kwargs["reason"] for call in told.calls]
    assert len(reasons) == len(set(reasons)) == 2
