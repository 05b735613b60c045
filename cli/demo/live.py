"""What the demo shows while it runs: a live table on a terminal, plain lines elsewhere."""

import sys
import time
from collections import deque
from dataclasses import dataclass, field

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.table import Table

from cli.demo.figures import Tally, percentiles

PLAIN_INTERVAL_S = 5.0
WINDOW_S = 5.0


@dataclass
class Board:
    """The state of the run that is shown. Fed from one event loop; drawn by `draw`."""

    tally: Tally
    phase: str = "starting"
    total: int = 0
    sent: int = 0
    alerts: deque[str] = field(default_factory=lambda: deque(maxlen=5))
    recent: deque[tuple[float, float]] = field(default_factory=deque)

    def latency(self, millis: float) -> None:
        self.recent.append((time.monotonic(), millis))

    def window(self) -> tuple[float, dict[str, float]]:
        """Results per second and latency percentiles of the last seconds."""
        since = time.monotonic() - WINDOW_S
        while self.recent and self.recent[0][0] < since:
            self.recent.popleft()
        return len(self.recent) / WINDOW_S, percentiles([millis for _, millis in self.recent])


class Screen:
    """Draws the board: `with Screen(board) as screen: ... screen.refresh()`."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self._console = Console(stderr=True)
        self._live = (
            Live(console=self._console, refresh_per_second=4, transient=True)
            if self._console.is_terminal
            else None
        )
        self._printed = 0.0

    def __enter__(self) -> "Screen":
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()

    def refresh(self, *, force: bool = False) -> None:
        if self._live:
            self._live.update(self._draw())
            return
        if force or time.monotonic() - self._printed >= PLAIN_INTERVAL_S:
            self._printed = time.monotonic()
            print(self._line(), file=sys.stderr, flush=True)

    def _line(self) -> str:
        board = self._board
        rate, latency = board.window()
        decided = board.tally.decisions()
        return (
            f"{board.phase}: sent {board.sent}/{board.total}, accepted {len(board.tally.accepted)}, "
            f"results {len(board.tally.seen)} ({rate:.0f}/s), p50 {latency.get('p50', 0):.0f} ms, "
            f"p99 {latency.get('p99', 0):.0f} ms, blocked {decided['blocked']}, "
            f"in review {decided['in_review']}, confirmed {decided['confirmed']}"
        )

    def _draw(self) -> Panel:
        board = self._board
        rate, latency = board.window()
        decided = board.tally.decisions()
        table = Table.grid(padding=(0, 3))
        table.add_row("sent", f"{board.sent:,} of {board.total:,}", "results", f"{len(board.tally.seen):,}")
        table.add_row("rate", f"{rate:,.0f}/s", "late", f"{board.tally.late:,}")
        table.add_row(
            "accepted to pushed",
            f"p50 {latency.get('p50', 0):,.0f} ms",
            "",
            f"p99 {latency.get('p99', 0):,.0f} ms",
        )
        table.add_row(
            "[red]blocked[/]",
            f"{decided['blocked']:,}",
            "[yellow]in review[/]",
            f"{decided['in_review']:,}",
            "[green]confirmed[/]",
            f"{decided['confirmed']:,}",
        )
        alerts = "\n".join(board.alerts) or "none yet"
        return Panel(
            Group(table, Panel(alerts, title="last alerts", border_style="red")),
            title=f"millstream demo: {board.phase}",
        )
