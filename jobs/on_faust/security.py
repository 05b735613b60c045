"""The client settings of Kafka, which are librdkafka's, as Faust's credentials."""

import ssl
from collections.abc import Mapping
from typing import Any

import faust

from core.errors import DeclarationError

_KNOWN = (
    "security.protocol", "sasl.mechanism", "sasl.mechanisms", "sasl.username", "sasl.password",
    "ssl.ca.location", "ssl.certificate.location", "ssl.key.location", "ssl.key.password",
)  # fmt: skip
_PROTOCOLS = ("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL")
_MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")


def credentials(security: Mapping[str, str]) -> Any:
    """What `broker_credentials` of a Faust app takes; None for a broker without TLS and SASL.

    Raises DeclarationError for a setting that Faust has no counterpart of: it must not be left out silently.
    """
    unknown = sorted(set(security) - set(_KNOWN))
    protocol = security.get("security.protocol", "PLAINTEXT").upper()
    mechanism = security.get("sasl.mechanism", security.get("sasl.mechanisms", "PLAIN")).upper()
    if protocol not in _PROTOCOLS:
        unknown.append(f"security.protocol {protocol}")
    if mechanism not in _MECHANISMS:
        unknown.append(f"sasl.mechanism {mechanism}")
    if unknown:
        raise DeclarationError(
            f"Faust cannot connect with {', '.join(unknown)}",
            where="settings kafka.security",
            mend=f"use {', '.join(_KNOWN)}, or run the view on Flink",
        )
    context = _context(security) if protocol.endswith("SSL") else None
    if protocol.startswith("SASL"):
        return faust.SASLCredentials(
            username=security.get("sasl.username"),
            password=security.get("sasl.password"),
            ssl_context=context,
            mechanism=mechanism,
        )
    return None if context is None else faust.SSLCredentials(context)


def _context(security: Mapping[str, str]) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=security.get("ssl.ca.location"))
    certificate = security.get("ssl.certificate.location")
    if certificate is not None:
        context.load_cert_chain(
            certificate, security.get("ssl.key.location"), security.get("ssl.key.password")
        )
    return context
