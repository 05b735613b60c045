"""Listening: what the gateway pushes, counted by id and timed by stage."""

import time
from datetime import datetime
from typing import Any

from cli.demo.live import Board
from core.clock import EPOCH
from gateway.client import GatewayClient, Listening, PushedEvent


class Listener:
    """Follows the results and the alerts of one tenant until it is stopped."""

    def __init__(self, client: GatewayClient, pipeline: str, board: Board) -> None:
        self._client = client
        self._pipeline = pipeline
        self._board = board
        self.results = Listening()
        self.alerts = Listening()
        self.timed = False
        self.alerts_seen: dict[str, str] = {}
        self.stopped = False

    async def follow_results(self) -> None:
        async for event in self._client.listen(self._pipeline, state=self.results, stop=lambda: self.stopped):
            self._take(event)

    async def follow_alerts(self) -> None:
        async for event in self._client.listen(
            None, channel="alerts", state=self.alerts, stop=lambda: self.stopped
        ):
            data = event.data
            self.alerts_seen.setdefault(data["deduplication_key"], data["kind"])
            self._board.alerts.append(f"{data['raised_at'][11:19]} {data['severity']}: {data['text']}")

    def _take(self, event: PushedEvent) -> None:
        arrived = time.time() * 1000
        data = event.data
        result = data.get("result")
        if result is None:
            return
        tally = self._board.tally
        first = tally.result(
            data["id"],
            data["status"],
            score=result.get("score"),
            late=bool(result.get("late")),
            degraded=bool(result.get("degraded")),
        )
        received = result.get("received_at")
        if not first or received is None:
            return
        total = arrived - _millis(received)
        self._board.latency(total)
        if self.timed:
            self._time(data, result, event.pushed_at, total)

    def _time(self, data: dict[str, Any], result: dict[str, Any], pushed_at: datetime, total: float) -> None:
        stages = self._board.tally.stages
        stages["total"].append(total)
        if result.get("enriched_at"):
            stages["features"].append(_millis(result["enriched_at"]) - _millis(result["received_at"]))
        for stage in ("queue", "model", "decide"):
            stages[stage].append(float(result[f"{stage}_ms"]))
        stages["store"].append(float(data["store_ms"]))
        pushed = (pushed_at - EPOCH).total_seconds() * 1000
        stages["push"].append(pushed - _millis(data["changed_at"]))


def _millis(text: str) -> float:
    return datetime.fromisoformat(text).timestamp() * 1000
