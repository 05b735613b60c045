"""LZ4, Zstandard and Snappy for aiokafka, Faust's Kafka client.

aiokafka decompresses these three by way of the package `cramjam`, and refuses the message where that is not
installed. Our producers send LZ4. pyarrow, which is there anyway, has the same codecs; they are put where
aiokafka looks for `cramjam`. Faust itself sends nothing compressed.
"""

import aiokafka.codec
import pyarrow as pa


class _Framed:
    """A codec whose frame says where it ends."""

    def __init__(self, name: str) -> None:
        self._name = name

    def decompress(self, payload: bytes) -> bytes:
        out: bytes = pa.input_stream(pa.py_buffer(payload), compression=self._name).read()
        return out


class _Snappy:
    """Raw blocks, which begin with the length of what is in them."""

    def decompress_raw(self, payload: bytes) -> bytes:
        data = bytes(payload)
        length = shift = at = 0
        while data[at] & 0x80:
            length |= (data[at] & 0x7F) << shift
            shift, at = shift + 7, at + 1
        length |= data[at] << shift
        out: bytes = pa.decompress(data, decompressed_size=length, codec="snappy", asbytes=True)
        return out


class _Codecs:
    lz4 = _Framed("lz4")
    zstd = _Framed("zstd")
    snappy = _Snappy()


def install() -> None:
    """Let aiokafka read what is compressed; once per process, and not where `cramjam` is installed."""
    if aiokafka.codec.cramjam is None:
        aiokafka.codec.cramjam = _Codecs
