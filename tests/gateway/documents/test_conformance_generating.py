"""The routes of language models answer as the document says, on a fake model: to what schemathesis makes."""

import asyncio
import time

from schemathesis import GenerationMode

from core.settings import Llm
from gateway.documents.generating import chat_body, prompt_body
from tests.gateway.documents.conformance import Api
from tests.gateway.documents.made import openapi_document
from tests.gateway.test_generating import KEY, site
from tests.operators.generating import world

PATHS = ("/api/v1/generate", "/v1/chat/completions", "/v1/models", "/api/v1/batch/status")
SECONDS = 3.0
GOOD = {
    "POST /api/v1/generate": {"prompt": "hello"},
    "POST /v1/chat/completions": {"messages": [{"role": "user", "content": "hello"}]},
}
LLM = Llm(max_prompt_bytes=1000, max_tokens=400)
"""As `site` has it."""


async def test_answers_are_as_the_document_says() -> None:
    document = openapi_document()
    schemas = document["components"]["schemas"] | {"Prompt": prompt_body(LLM), "Chat": chat_body(LLM)}
    document = document | {
        "paths": {path: document["paths"][path] for path in PATHS},
        "components": document["components"] | {"schemas": schemas},
    }
    async with world("fake") as made, site(made.generate, "fake") as served:
        api = Api(document, served.url, KEY)

        def all_of_them() -> None:
            for operation in api.operations():
                for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
                    api.check(operation, mode, examples=20, until=time.monotonic() + SECONDS)

        def good_ones() -> None:
            for operation in api.operations():
                given = {"body": GOOD[operation.label]} if operation.label in GOOD else {}
                assert api.send(operation, **given).status_code == 200, operation.label

        await asyncio.to_thread(good_ones)
        await asyncio.to_thread(all_of_them)
        api.close()
    assert len(api.statuses) == len(PATHS)
