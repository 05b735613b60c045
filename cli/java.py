"""Our Java parts with what compiles and runs them, wherever Flink itself runs."""

from typing import TYPE_CHECKING

from core.settings import settings

if TYPE_CHECKING:
    from jobs.on_flink.java_parts import JavaParts


def java_parts() -> "JavaParts":
    """Fetches what is missing: an external Flink is not fetched by `up`, its connectors are wanted here."""
    from jobs.on_flink.java_parts import JavaParts
    from stack.flink import Flink
    from stack.service import Silent, java

    cluster = Flink(settings())
    cluster.fetch(Silent())
    return JavaParts(java(), cluster.compiler(), cluster.connectors())
