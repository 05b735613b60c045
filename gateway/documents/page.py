"""The page of both documents: HTML made here, without script, fonts or pictures, and with its style inside.

Its `Content-Security-Policy` allows that one style, by its digest, and nothing else. Whatever comes from a
declaration is escaped.
"""

import base64
import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from html import escape
from typing import Any

from gateway.documents.openapi import Document
from gateway.documents.problems import CODES

STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:70rem;margin:0 auto;padding:1rem 1.5rem 6rem}
body{color:#1b1f24;background:#fff}
h1,h2{line-height:1.2}h2{margin-top:2.5rem;border-bottom:1px solid #d5dae0}
code,pre,.path{font-family:ui-monospace,monospace;font-size:.93em}
pre{background:#f4f6f8;padding:.75rem;overflow:auto;white-space:pre-wrap}
details{border:1px solid #d5dae0;border-radius:4px;margin:.4rem 0;padding:.3rem .7rem}
summary{cursor:pointer}
table{border-collapse:collapse;width:100%;margin:.5rem 0}
th,td{text-align:left;vertical-align:top;border-top:1px solid #e4e8ec;padding:.25rem .6rem .25rem 0}
.method{display:inline-block;min-width:4.5rem;font-weight:600}
.quiet{color:#5b6570}
nav a{margin-right:1rem}
@media (prefers-color-scheme:dark){body{color:#e3e7eb;background:#15181c}pre{background:#20252b}
details,th,td,h2{border-color:#39414a}.quiet{color:#9aa5b1}a{color:#8ab8ff}}
"""
_DIGEST = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
POLICY = (
    f"default-src 'none'; style-src 'sha256-{_DIGEST}'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def page(openapi: Document, asyncapi: Document) -> str:
    """The whole page."""
    info = openapi["info"]
    tags = dict.fromkeys(
        tag for path in openapi["paths"].values() for operation in path.values() for tag in operation["tags"]
    )
    sections = [
        f'<h2 id="{_anchor(tag)}">{escape(tag)}</h2>{"".join(_operations(openapi, tag))}' for tag in tags
    ]
    links = [(f"#{_anchor(tag)}", tag) for tag in tags]
    links += [("#channels", "Channels"), ("#topics", "Topics"), ("#schemas", "Schemas"), ("#codes", "Codes")]
    links += [("/openapi.json", "OpenAPI"), ("/asyncapi.json", "AsyncAPI")]
    channels = asyncapi["channels"]
    inside = {name: one for name, one in channels.items() if "kafka" in one.get("bindings", {})}
    outside = {name: one for name, one in channels.items() if name not in inside}
    schemas = openapi["components"]["schemas"] | asyncapi["components"]["schemas"]
    return "".join(
        (
            '<!doctype html><html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width,initial-scale=1">',
            f"<title>{escape(info['title'])}</title><style>{STYLE}</style></head><body>",
            f'<h1>{escape(info["title"])} <span class="quiet">{escape(info["version"])}</span></h1>',
            f"<p>{_text(info['description'])}</p><nav>",
            *(f'<a href="{escape(to)}">{escape(name)}</a>' for to, name in links),
            "</nav>",
            *sections,
            '<h2 id="channels">Channels</h2>',
            *(_channel(name, one, asyncapi) for name, one in outside.items()),
            '<h2 id="topics">Topics</h2>',
            *(_channel(name, one, asyncapi) for name, one in inside.items()),
            '<h2 id="schemas">Schemas</h2>',
            *(_schema(name, schema) for name, schema in sorted(schemas.items())),
            '<h2 id="codes">Codes of problems</h2>',
            _table(("code", "meaning"), ((f"<code>{escape(c)}</code>", escape(t)) for c, t in CODES.items())),
            "</body></html>",
        )
    )


def _operations(document: Document, tag: str) -> Iterable[str]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            if tag in operation["tags"]:
                yield _operation(document, method, path, operation)


def _operation(document: Document, method: str, path: str, operation: Document) -> str:
    scopes = [scope for one in operation["security"][:1] for names in one.values() for scope in names]
    who = f"scope <code>{escape(scopes[0])}</code>" if scopes else "for everybody"
    given = [_resolved(document, one) for one in operation["parameters"]]
    parameters = _table(
        ("parameter", "in", "type", "meaning"),
        (
            (
                f"<code>{escape(one['name'])}</code>{'' if one.get('required') else ' (optional)'}",
                escape(one["in"]),
                _type(one["schema"]),
                _text(one["description"]),
            )
            for one in given
        ),
    )
    body = operation.get("requestBody", {}).get("content", {})
    answers = _table(
        ("status", "meaning", "body"),
        (
            (escape(status), _text(answer["description"]), _contents(answer.get("content", {})))
            for status, answer in sorted(operation["responses"].items())
        ),
    )
    return (
        f'<details id="{escape(operation["operationId"])}"><summary>'
        f'<span class="method">{escape(method.upper())}</span> <span class="path">{escape(path)}</span> '
        f"{escape(operation['summary'])}</summary>"
        f'<p>{_text(operation.get("description", ""))}</p><p class="quiet">{who}</p>{parameters}'
        + (f"<p>Body: {_contents(body)}</p>" if body else "")
        + f"{answers}</details>"
    )


def _channel(name: str, channel: Document, document: Document) -> str:
    own = {"$ref": f"#/channels/{name}"}
    does = [
        f"<li><code>{escape(one['action'])}</code> {_text(one['summary'])}</li>"
        for one in document["operations"].values()
        if one["channel"] == own
    ]
    rows = (
        (
            f"<code>{escape(message['name'])}</code>",
            _text(message.get("summary", "")),
            _type(message["payload"]),
        )
        for message in channel["messages"].values()
    )
    codes = channel.get("x-close-codes")
    ends = (
        _table(("close code", "meaning"), ((escape(c), _text(t)) for c, t in codes.items())) if codes else ""
    )
    return (
        f'<details id="channel_{escape(name)}"><summary>'
        f'<span class="path">{escape(channel["address"])}</span> '
        f"{escape(channel.get('title', ''))}</summary><p>{_text(channel['description'])}</p>"
        f"<ul>{''.join(does)}</ul>{_table(('message', 'meaning', 'payload'), rows)}{ends}</details>"
    )


def _schema(name: str, schema: Mapping[str, Any]) -> str:
    properties: Mapping[str, Any] = schema.get("properties", {})
    needed = schema.get("required", ())
    rows = (
        (
            f"<code>{escape(field)}</code>{'' if field in needed else ' (optional)'}",
            _type(one),
            _text(one.get("description", "")),
        )
        for field, one in properties.items()
    )
    shown = _table(("field", "type", "meaning"), rows) if properties else _raw(schema)
    return (
        f'<details id="schema_{escape(name)}"><summary><code>{escape(name)}</code></summary>'
        f"<p>{_text(schema.get('description', ''))}</p>{shown}</details>"
    )


def _contents(content: Mapping[str, Any]) -> str:
    return "<br>".join(f"<code>{escape(kind)}</code> {_type(one['schema'])}" for kind, one in content.items())


def _type(schema: Mapping[str, Any]) -> str:
    """A schema in a few words, with links to those that have a name."""
    if "$ref" in schema:
        name = str(schema["$ref"]).rpartition("/")[2]
        return f'<a href="#schema_{escape(name)}">{escape(name)}</a>'
    if "schemaFormat" in schema:
        return f"<details><summary>Avro</summary>{_raw(schema['schema'])}</details>"
    for word, between in (("oneOf", " or "), ("anyOf", " or "), ("allOf", " with ")):
        if word in schema:
            return between.join(_type(one) for one in schema[word])
    if "const" in schema:
        return _code(schema["const"])
    if "enum" in schema:
        return ", ".join(_code(value) for value in schema["enum"])
    kind = schema.get("type")
    if kind == "array":
        return f"list of {_type(schema.get('items', {}))}"
    if kind == "object" and "properties" in schema:
        fields = "; ".join(
            f"<code>{escape(name)}</code>: {_type(one)}" for name, one in schema["properties"].items()
        )
        return f"{{{fields}}}"
    if kind == "object" and isinstance(below := schema.get("additionalProperties"), Mapping):
        return f"object of {_type(below)}"
    return escape(" ".join(str(part) for part in (kind or "anything", schema.get("format", "")) if part))


def _resolved(document: Document, one: Document) -> Document:
    if "$ref" not in one:
        return one
    found: Document = document["components"]["parameters"][one["$ref"].rpartition("/")[2]]
    return found


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Cells are HTML already."""
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    if not body:
        return ""
    return f"<table><tr>{''.join(f'<th>{escape(name)}</th>' for name in head)}</tr>{body}</table>"


def _raw(value: Any) -> str:
    return f"<pre>{escape(json.dumps(value, indent=1, ensure_ascii=False))}</pre>"


def _code(value: Any) -> str:
    return f"<code>{escape(json.dumps(value, ensure_ascii=False))}</code>"


def _text(text: str) -> str:
    """Plain text; what stands between backticks is code."""
    parts = escape(text).split("`")
    return "".join(f"<code>{part}</code>" if at % 2 else part for at, part in enumerate(parts))


def _anchor(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", name.lower())
