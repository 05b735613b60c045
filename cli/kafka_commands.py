"""`millstream kafka TOOL ...`: Kafka's own command-line tools, told where the brokers are.

With `--avro` the console consumer prints values as JSON, by the registry's schemas.
"""

import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from core.errors import InvalidInput, UnknownName
from core.settings import Settings, settings

CONSUMER = "console-consumer"
TOOLS = {
    CONSUMER: "org.apache.kafka.tools.consumer.ConsoleConsumer",
    "console-producer": "org.apache.kafka.tools.ConsoleProducer",
    "consumer-groups": "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand",
    "get-offsets": "org.apache.kafka.tools.GetOffsetShell",
    "topics": "org.apache.kafka.tools.TopicCommand",
}
DESERIALIZER = "io.apicurio.registry.serde.avro.AvroKafkaDeserializer"
_CONFLUENTS, _REGISTRYS = "/apis/ccompat/v7", "/apis/registry/v3"


def register(app: typer.Typer) -> None:
    @app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
    def kafka(
        context: typer.Context,
        tool: Annotated[str, typer.Argument(help=" | ".join(TOOLS))],
        avro: Annotated[
            bool, typer.Option("--avro", help="values as JSON, by the registry's schemas (console-consumer)")
        ] = False,
    ) -> None:
        """Kafka's own command-line tools, told where the brokers are: `kafka topics --list`."""
        command = command_of(settings(), tool, context.args, avro=avro)
        sys.stdout.flush()
        os.execv(command[0], command)


def command_of(given: Settings, tool: str, arguments: Sequence[str], *, avro: bool = False) -> list[str]:
    """The command line that runs a tool. Raises UnknownName, InvalidInput, and StackError where what it needs
    cannot be had."""
    from stack.kafka import Kafka

    if tool not in TOOLS:
        raise UnknownName("tool", tool, TOOLS)
    if avro and tool != CONSUMER:
        raise InvalidInput(f"--avro says nothing to {tool}", mend=f"it is for {CONSUMER}")
    more = ["--bootstrap-server", given.kafka.address]
    for name, value in _decoding(given).items() if avro else ():
        more += ["--formatter-property", f"{name}={value}"]
    return Kafka(given).tool(TOOLS[tool], [*arguments, *more], avro=avro)


def _decoding(given: Settings) -> dict[str, str]:
    """Properties of the console consumer's formatter. The deserializer speaks the registry's own API."""
    url = given.registry.address
    if not url.endswith(_CONFLUENTS):
        raise InvalidInput(
            "--avro needs an Apicurio registry", where=url, mend="use kcat, or Confluent's console consumer"
        )
    return {
        "value.deserializer": DESERIALIZER,
        "value.deserializer.apicurio.registry.url": url.removesuffix(_CONFLUENTS) + _REGISTRYS,
    }
