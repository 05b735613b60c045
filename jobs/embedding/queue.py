"""One model, one thread, and a bounded wait before it."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

from core.errors import DeadlineExceeded, ModelUnavailable, QueueFull, Rejected
from core.serving_settings import Embeddings
from models.embedding.encoder import Encoding, Vectors
from operators.embed_request import Bounds, Embedding


class EmbeddingQueue:
    """Makes the vectors of one request after the other. `encoder` is None until it is loaded. Belongs to one
    event loop."""

    def __init__(self, settings: Embeddings) -> None:
        self.encoder: Encoding | None = None
        self._settings = settings
        self._bounds = Bounds(settings.inputs, settings.input_tokens)
        self._thread = ThreadPoolExecutor(1, "embedding")
        self._waiting = 0

    async def ask(self, asked: Embedding) -> tuple[Vectors, int]:
        """The vectors, and how many tokens there were. Raises Rejected for too many of them, QueueFull,
        DeadlineExceeded, ModelUnavailable until there is a model."""
        if self.encoder is None:
            raise ModelUnavailable("the model is not loaded yet")
        tokens = asked.most_tokens(self._bounds)
        if self._waiting and self._waiting + tokens > self._settings.queued_tokens:
            raise QueueFull(f"{self._waiting} tokens wait already")
        self._waiting += tokens
        loop = asyncio.get_running_loop()
        work = loop.run_in_executor(self._thread, self._made, asked, self.encoder)
        work.add_done_callback(lambda _: self._ended(tokens))
        try:
            async with asyncio.timeout(self._settings.timeout_s):
                return await work
        except TimeoutError:
            raise DeadlineExceeded(f"no vectors within {self._settings.timeout_s:g} s") from None

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _ended(self, tokens: int) -> None:
        self._waiting -= tokens

    def _made(self, asked: Embedding, encoder: Encoding) -> tuple[Vectors, int]:
        limit, found, total = self._settings.input_tokens, [], 0
        for at, text in enumerate(asked.texts):
            ids = encoder.tokens(text, most=limit)
            if ids is None:
                raise _too_long({f"/input/{at}": f"more than {limit} tokens"})
            found.append(ids)
            total += len(ids)
            if total > self._settings.request_tokens:
                raise _too_long({"/input": f"more than {self._settings.request_tokens} tokens together"})
        return encoder.vectors(found), total


def _too_long(fields: dict[str, str]) -> Rejected:
    return Rejected("too many tokens", fields=fields, mend="cut the texts", code="invalid_request")
