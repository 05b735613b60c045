"""`millstream kafka TOOL ...`: Kafka's own command-line tools, told where the brokers are."""

import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from core.errors import UnknownName
from core.settings import Settings, settings

TOOLS = {
    "console-consumer": "org.apache.kafka.tools.consumer.ConsoleConsumer",
    "console-producer": "org.apache.kafka.tools.ConsoleProducer",
    "consumer-groups": "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand",
    "get-offsets": "org.apache.kafka.tools.GetOffsetShell",
    "topics": "org.apache.kafka.tools.TopicCommand",
}


def register(app: typer.Typer) -> None:
    @app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
    def kafka(
        context: typer.Context,
        tool: Annotated[str, typer.Argument(help=" | ".join(TOOLS))],
    ) -> None:
        """Kafka's own command-line tools, told where the brokers are: `kafka topics --list`."""
        command = command_of(settings(), tool, context.args)
        sys.stdout.flush()
        os.execv(command[0], command)


def command_of(given: Settings, tool: str, arguments: Sequence[str]) -> list[str]:
    """The command line that runs a tool. Raises UnknownName, and StackError where Kafka was never fetched."""
    from stack.kafka import Kafka

    if tool not in TOOLS:
        raise UnknownName("tool", tool, TOOLS)
    return Kafka(given).tool(TOOLS[tool], [*arguments, "--bootstrap-server", given.kafka.address])
