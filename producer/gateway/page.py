"""The page at /docs: what the gateway does, from its own description; no script, nothing from elsewhere."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from html import escape
from typing import Any

from producer.gateway.problems import Refusal
from producer.reasons import Reason

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem;
  color: #222; background: #fff }
h2 code { background: #eef; padding: .1em .4em; border-radius: .3em }
pre { background: #f5f5f5; padding: .8rem; overflow-x: auto; border-radius: .3em; font-size: .85rem }
table { border-collapse: collapse; width: 100% } td, th { text-align: left; padding: .2rem .8rem .2rem 0;
  vertical-align: top; border-bottom: 1px solid #ddd }
@media (prefers-color-scheme: dark) { body { color: #ddd; background: #181818 }
  pre { background: #222 } h2 code { background: #335 } td, th { border-color: #444 } a { color: #9bf } }
"""


def render(openapi: dict[str, Any]) -> str:
    """The description as a page of HTML."""
    info = openapi["info"]
    parts = [
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{escape(info['title'])}</title>",
        '<meta name=viewport content="width=device-width">',
        f"<style>{_STYLE}</style><h1>{escape(info['title'])} {escape(info['version'])}</h1>",
        f"<p>{escape(info['description'])}",
        '<p>For programs: <a href="/openapi.json">/openapi.json</a> (OpenAPI 3.1).',
    ]
    for path, operations in openapi["paths"].items():
        for method, operation in operations.items():
            parts += _operation(method.upper(), path, operation)
    parts += _reasons()
    return "\n".join(parts)


def _operation(method: str, path: str, operation: dict[str, Any]) -> Iterator[str]:
    yield f"<h2><code>{method} {escape(path)}</code></h2>"
    yield f"<p>{escape(operation.get('description', ''))}"
    if operation.get("security"):
        scopes = " or ".join(scope for each in operation["security"][0].values() for scope in each)
        yield f"<p>Needs a key with the scope {escape(scopes)}: <code>Authorization: Bearer SECRET</code>"
    yield from _parameters(operation.get("parameters", []))
    for kind, content in operation.get("requestBody", {}).get("content", {}).items():
        yield from _examples(f"Send {kind}", content)
    rows = [
        (status, escape(response["description"]))
        for status, response in sorted(operation["responses"].items())
    ]
    yield _table(rows)
    for status, response in sorted(operation["responses"].items()):
        for content in response.get("content", {}).values():
            if status < "300":
                yield from _examples(status, content)


def _parameters(parameters: list[dict[str, Any]]) -> Iterator[str]:
    rows = [
        (
            f"<code>{escape(each['name'])}</code>",
            f"{escape(each['in'])}{', required' if each.get('required') else ''}",
            escape(each.get("description", "")),
        )
        for each in parameters
    ]
    if rows:
        yield _table(rows)


def _examples(title: str, content: dict[str, Any]) -> Iterator[str]:
    given = content.get("examples", {})
    examples = {name: each["value"] for name, each in given.items()}
    if "example" in content:
        examples[""] = content["example"]
    for name, value in examples.items():
        text = value if isinstance(value, str) else json.dumps(value, indent=2, ensure_ascii=False)
        yield f"<p>{escape(title)}{': ' if name else ''}{escape(name)}<pre>{escape(text)}</pre>"


def _reasons() -> Iterator[str]:
    yield "<h2>Reasons</h2><p>The codes of problems never change."
    rows = [
        (f'<code id="{each.value}">{each.value}</code>', escape(each.meaning))
        for each in (*Refusal, *Reason)
    ]
    yield _table(rows)


def _table(rows: Sequence[tuple[str, ...]]) -> str:
    lines = ("<tr>" + "".join(f"<td>{cell}" for cell in row) for row in rows)
    return "<table>" + "\n".join(lines) + "</table>"
