"""The registry's webhooks where no secret is set; with one, see `tests/jobs/rollout`."""

import pytest

from gateway.exchange import Request
from gateway.problems import NotFound, problem_of
from gateway.registry_webhook import PATH, RegistryWebhook


async def test_without_a_secret_nothing_is_read_and_the_answer_says_how_to_set_one() -> None:
    async def body(at_most: int) -> bytes:
        raise AssertionError("read")

    endpoint = RegistryWebhook(None, None, None, None, None)  # type: ignore[arg-type]
    with pytest.raises(NotFound) as refused:
        await endpoint.post(Request("POST", PATH, {}, body, "r1"))
    told = problem_of(refused.value, "r1")
    assert (told.status, told.code, told.retryable) == (404, "webhook_without_secret", False)
    assert "MILLSTREAM_MLFLOW__WEBHOOK_SECRET" in str(told.mend)
