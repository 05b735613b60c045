"""OpenAI's own client, as it is, at the gateway: only the address and the key are ours."""

import base64
from collections.abc import Iterator

import httpx
import numpy as np
import openai
import pytest

from core.settings import Settings
from models.embedding import weights
from models.embedding.encoder import Encoder
from tests.contract.clients.conftest import Site
from tests.models.embedding.plain import vector

pytestmark = [pytest.mark.services, pytest.mark.timeout(900)]
MINILM, SMOLLM = "all-minilm-l6-v2", "smollm2-135m-instruct"
TEXTS = ["The weather is lovely today.", "It's so sunny outside!", "He drove to the stadium."]
QUESTION: list[openai.types.chat.ChatCompletionMessageParam] = [{"role": "user", "content": "Say hello."}]


@pytest.fixture
def client(site: Site) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{site.url}/v1", api_key=site.key, max_retries=0, timeout=90) as made:
        yield made


def test_a_chat_whole_and_streamed(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model=SMOLLM, messages=QUESTION, max_tokens=12, seed=1)
    assert answer.choices[0].message.content
    assert answer.usage is not None
    assert 0 < answer.usage.completion_tokens <= 12
    stream = client.chat.completions.create(
        model=SMOLLM,
        messages=QUESTION,
        max_tokens=12,
        seed=1,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == answer.choices[0].message.content
    assert chunks[-1].usage is not None


def test_models_are_listed_and_found(client: openai.OpenAI) -> None:
    assert {model.id for model in client.models.list()} == {SMOLLM, MINILM}
    for name in (SMOLLM, MINILM):
        assert client.models.retrieve(name).id == name
    with pytest.raises(openai.NotFoundError) as raised:
        client.models.retrieve("gpt-5")
    assert raised.value.code == "unknown_model"


def test_vectors_as_the_makers_of_the_model_print_them(client: openai.OpenAI) -> None:
    """The client asks for base64 by itself, and decodes it."""
    answer = client.embeddings.create(model=MINILM, input=TEXTS)
    assert (answer.model, [one.index for one in answer.data]) == (MINILM, [0, 1, 2])
    found = np.array([one.embedding for one in answer.data])
    table = [[1.0, 0.6660, 0.1046], [0.6660, 1.0, 0.1411], [0.1046, 0.1411, 1.0]]
    np.testing.assert_allclose(found @ found.T, table, atol=1e-4)
    assert (answer.usage.prompt_tokens, answer.usage.total_tokens) == (25, 25)


def test_one_text_as_several_and_in_both_forms(client: openai.OpenAI) -> None:
    together = client.embeddings.create(model=MINILM, input=TEXTS)
    for at, text in enumerate(TEXTS):
        alone = client.embeddings.create(model=MINILM, input=text, encoding_format="float")
        np.testing.assert_allclose(alone.data[0].embedding, together.data[at].embedding, atol=1e-6)
    written = client.embeddings.create(model=MINILM, input=TEXTS[0], encoding_format="base64")
    bare = written.data[0].embedding
    decoded = np.frombuffer(base64.b64decode(bare), "<f4") if isinstance(bare, str) else np.array(bare)
    np.testing.assert_allclose(decoded, together.data[0].embedding, atol=1e-7)


def test_vectors_are_those_of_a_plain_computation(client: openai.OpenAI) -> None:
    folder = weights.fetch(Settings().cache)
    plain, _ = weights.read(folder)
    words = Encoder.load(folder)
    for text in (*TEXTS, "Zahlung abgelehnt", "x" * 300):
        ids = words.tokens(text, most=256)
        assert ids is not None
        answer = client.embeddings.create(model=MINILM, input=text)
        np.testing.assert_allclose(answer.data[0].embedding, vector(plain, ids), atol=2e-6)
        assert answer.usage.prompt_tokens == len(ids)


def test_what_is_not_taken_is_said(client: openai.OpenAI) -> None:
    for given, said in (
        ({"input": [1, 2, 3]}, "tokens are not taken"),
        ({"input": [[1, 2], [3]]}, "tokens are not taken"),
        ({"input": ""}, "empty"),
        ({"input": []}, "a list of texts"),
        ({"input": ["x"] * 257}, "at most 256"),
        ({"input": "word " * 400}, "more than 256 tokens"),
        ({"input": ["word " * 200] * 100}, "tokens together"),
        ({"input": "x", "dimensions": 128}, "one width"),
        ({"input": "x", "encoding_format": "int8"}, "one of float, base64"),
        ({"input": "x", "extra_body": {"nobody": 1}}, "no such field"),
    ):
        with pytest.raises(openai.UnprocessableEntityError) as raised:
            client.embeddings.create(model=MINILM, **given)  # type: ignore[arg-type]
        assert said in raised.value.message, (given, raised.value.message)
        assert raised.value.code == "invalid_request"
    with pytest.raises(openai.NotFoundError):
        client.embeddings.create(model="text-embedding-3-small", input="x")
    assert client.embeddings.create(model=MINILM, input="x").data


def test_a_key_that_is_none(site: Site) -> None:
    with openai.OpenAI(base_url=f"{site.url}/v1", api_key="ms_x", max_retries=0) as client:
        with pytest.raises(openai.AuthenticationError):
            client.embeddings.create(model=MINILM, input="x")
        with pytest.raises(openai.AuthenticationError):
            client.models.list()


def test_a_body_that_is_too_large(site: Site) -> None:
    body = b'{"input": "' + b"a" * site.settings.embeddings.max_body_bytes + b'"}'
    headers = site.headers | {"content-type": "application/json"}
    answer = httpx.post(f"{site.url}/v1/embeddings", content=body, headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "too_large")
