"""A certificate and its key: whether they are there, fit each other, and can be served with."""

import ssl
from pathlib import Path

from core.errors import StackError

_WHERE = "MILLSTREAM_GATEWAY__CERTIFICATE and MILLSTREAM_GATEWAY__PRIVATE_KEY"


def check_pair(certificate: Path, private_key: Path) -> None:
    """Raises StackError where a file cannot be read, is damaged or encrypted, or the two do not belong
    together."""
    for path in (certificate, private_key):
        try:
            path.read_bytes()
        except OSError as error:
            raise StackError(
                f"{path} cannot be read: {error.strerror or error}",
                where=_WHERE,
                mend="name PEM files that this process may read",
                code="tls_unreadable",
            ) from error
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(certificate, private_key, password=_no_password)
    except (ssl.SSLError, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise StackError(
            f"{certificate} and {private_key} are no certificate and its key: {reason}",
            where=_WHERE,
            mend="give both as PEM: the certificate with its chain, its own after it, and the key without a"
            " password",
            code="tls_damaged",
        ) from error


def _no_password() -> str:
    raise ValueError("the key is encrypted")
