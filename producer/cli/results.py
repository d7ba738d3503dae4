"""Replies, for people and as JSON."""

from __future__ import annotations

from dataclasses import dataclass

from producer.cli.picking import Pick
from producer.cli.terminal import Terminal, table
from producer.errors import ProductNotFound
from producer.messages import BatchReply, Reply


@dataclass(frozen=True)
class Asked:
    """What a reply is the answer to, to explain what it lacks."""

    pick: Pick
    by_product: bool
    """Whether a product was named, which is never among its own matches."""


def show(terminal: Terminal, reply: Reply, asked: Asked | None = None) -> None:
    """One reply: its matches, nearest first, and what answered it; `asked` is None if it is not known here."""
    if terminal.json:
        terminal.data(as_json(reply))
        return
    _show_table(terminal, reply, asked)


def show_batch(terminal: Terminal, batch: BatchReply) -> None:
    """All replies of a lookup. Raises ProductNotFound if it has none."""
    if not batch.replies and batch.not_found:
        raise ProductNotFound(batch.not_found[0])
    if len(batch.replies) == 1 and not batch.not_found:
        show(terminal, batch.replies[0])
    elif terminal.json:
        terminal.data(
            {
                "replies": [as_json(reply) for reply in batch.replies],
                "not_found": list(batch.not_found),
            }
        )
    else:
        for reply in batch.replies:
            terminal.line(reply.product_id or "a picture")
            _show_table(terminal, reply)
        if batch.not_found:
            terminal.warn(f"not in the catalogue: {', '.join(batch.not_found)}")


def as_json(reply: Reply) -> dict[str, object]:
    """A reply with the similarity of each match."""
    value = reply.model_dump(mode="json")
    for each, match in zip(value["matches"], reply.matches, strict=True):
        each["similarity"] = round(match.similarity, 6)
    return value


def _why_none(reply: Reply, asked: Asked | None) -> str:
    """Why a reply has no matches: it has some whenever there are any."""
    if asked is None:
        return ""
    if asked.pick.conditions:
        other = "other " if asked.by_product else ""
        return f": no {other}product satisfies {', '.join(asked.pick.conditions)}"
    if asked.by_product:
        return ": there is no other product in the catalogue"
    return ": the catalogue is empty" if reply.path == "none" else ""


def _why_few(reply: Reply, asked: Asked | None) -> str | None:
    """Why a reply has fewer matches than it was asked for, if something that was asked for is why."""
    if asked is None or not 0 < len(reply.matches) < asked.pick.limit:
        return None
    reasons = (*asked.pick.conditions, *asked.pick.thinning)
    if not reasons:
        return None
    leave = "leaves" if len(reasons) == 1 else "leave"
    return f"{len(reply.matches)} of {asked.pick.limit}: {', '.join(reasons)} {leave} no more"


def _show_table(terminal: Terminal, reply: Reply, asked: Asked | None = None) -> None:
    if reply.matches:
        rows = [
            (
                place,
                match.product_id,
                f"{match.similarity:.1%}",
                f"{match.distance:.4f}",
                match.category or "",
                match.name,
            )
            for place, match in enumerate(reply.matches, start=1)
        ]
        columns = ("#", "product", "similarity", "distance", "category", "picture")
        terminal.show(table(columns, rows, right=("#", "similarity", "distance")))
    else:
        terminal.line(f"no product looks like this{_why_none(reply, asked)}")
    if (few := _why_few(reply, asked)) is not None:
        terminal.note(few)
    index = "no index yet" if reply.generation is None else f"index generation {reply.generation}"
    changes = "change" if reply.pending == 1 else "changes"
    terminal.note(
        f"{index}, as of revision {reply.as_of.revision}, {reply.pending} {changes} pending, "
        f"answered by {reply.path}"
    )
