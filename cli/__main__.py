"""`python -m cli` is the `millstream` command."""

from cli.main import run

run()
