"""The page: all of both documents, without scripts, and with nothing from elsewhere."""

import base64
import hashlib
from html.parser import HTMLParser
from typing import Any

from gateway.documents.page import POLICY, page
from gateway.documents.problems import CODES
from tests.gateway.documents.made import asyncapi_document, openapi_document

ACTIVE = {"script", "iframe", "object", "embed", "img", "link", "form", "base", "svg", "video", "audio"}


class Reader(HTMLParser):
    """What elements, attributes, ids and text a page has."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: set[str] = set()
        self.attributes: set[str] = set()
        self.ids: list[str] = []
        self.links: set[str] = set()
        self.styles: list[str] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.add(tag)
        self.attributes |= {name for name, _ in attrs}
        given = dict(attrs)
        if given.get("id"):
            self.ids.append(str(given["id"]))
        if tag == "a":
            self.links.add(str(given["href"]))
        if tag not in ("meta", "br"):
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] == "style":
            self.styles.append(data)
        else:
            self.text += data


def test_the_page_has_all_and_loads_nothing() -> None:
    read = Reader(page(openapi_document(), asyncapi_document()))
    assert not read.elements & ACTIVE
    assert not {name for name in read.attributes if name.startswith("on") or name in ("style", "src")}
    for path, methods in openapi_document()["paths"].items():
        assert path in read.text
        assert {operation["operationId"] for operation in methods.values()} <= set(read.ids)
    for channel in asyncapi_document()["channels"].values():
        assert channel["address"] in read.text
    assert all(code in read.text for code in CODES)
    assert len(read.ids) == len(set(read.ids))
    inside = {link for link in read.links if link.startswith("#")}
    assert {link[1:] for link in inside} <= set(read.ids)
    assert read.links - inside == {"/openapi.json", "/asyncapi.json"}


def test_the_policy_allows_the_style_of_the_page_and_nothing_else() -> None:
    (style,) = Reader(page(openapi_document(), asyncapi_document())).styles
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    rules = dict(rule.strip().split(" ", 1) for rule in POLICY.split(";"))
    assert rules.pop("style-src") == f"'sha256-{digest}'"
    assert set(rules.values()) == {"'none'"}
    assert "url(" not in style
    assert "@import" not in style


def test_what_a_declaration_says_is_text() -> None:
    evil = "<script>alert(1)</script>\"'`<img src=x onerror=y>`"
    document: Any = openapi_document()
    some = {"paths": {}, "info": {"title": evil, "version": evil, "description": evil}, "components": {}}
    operation = {
        "operationId": evil, "summary": evil, "description": evil, "tags": [evil],
        "security": [{"bearer": [evil]}],
        "parameters": [{"name": evil, "in": evil, "description": evil, "schema": {"enum": [evil]}}],
        "requestBody": {
            "content": {evil: {"schema": {"type": "object", "properties": {evil: {"const": evil}}}}}
        },
        "responses": {"200": {"description": evil, "content": {evil: {"schema": {"$ref": evil}}}}},
    }  # fmt: skip
    some["paths"] = {evil: {"get": operation}}
    some["components"] = {"schemas": {evil: {"description": evil, "properties": {evil: {"type": evil}}}}}
    channel = {
        "address": evil, "title": evil, "description": evil,
        "messages": {evil: {"name": evil, "summary": evil, "payload": {"schemaFormat": "", "schema": evil}}},
        "x-close-codes": {evil: evil},
    }  # fmt: skip
    pushed = {"channels": {evil: channel}, "operations": {}, "components": {"schemas": {}}}
    read = Reader(page(some, pushed))
    usual = Reader(page(document, asyncapi_document()))
    assert read.elements <= usual.elements
    assert read.attributes <= usual.attributes
    assert evil.replace("`", "") in read.text.replace("`", "")
