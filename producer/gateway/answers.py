"""Answers: what the producer gives back, as documents."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from producer.errors import LookupFailed, LookupTimeout, PictureRejected
from producer.gateway.problems import Problem
from producer.lookups import BatchLookup
from producer.mailbox import LookupState
from producer.messages import Answer, BatchReply, Outcome, Reply
from producer.reasons import Reason
from producer.receipts import Receipt

LOOKUPS, JOBS = "/lookups", "/jobs"


def accepted(receipts: Sequence[Receipt]) -> dict[str, Any]:
    """What was accepted, by the jobs that it went into."""
    jobs = [{"id": each.id, "url": f"{JOBS}/{each.id}", "items": each.items} for each in receipts]
    return {"accepted": sum(each.items for each in receipts), "jobs": jobs}


def outcome(job_id: str, found: Outcome, *, ended: bool) -> dict[str, Any]:
    """What has become of a job so far."""
    failures = [each.model_dump(mode="json", exclude={"retried_as"}) for each in found.failures]
    state = "ended" if ended else "waiting"
    return {"id": job_id, "state": state, "applied": found.applied, "failures": failures}


def queued(lookup_id: str) -> dict[str, Any]:
    """A lookup that was just asked."""
    return _head(lookup_id, LookupState.QUEUED)


def unreadable(lookup_id: str) -> dict[str, Any]:
    """A lookup whose answer is of another version."""
    detail = "the answer is not one this version reads: upgrade the gateway or the service"
    problem = Problem.of_lookup(Reason.INTERNAL, detail)
    return _head(lookup_id, LookupState.FAILED) | {"problem": problem.document}


def lookup(asked: BatchLookup, state: LookupState, answer: Answer | None) -> dict[str, Any]:
    """A lookup as it was found in its mailbox. Raises UnknownLookup and LookupExpired."""
    head = _head(asked.id, state)
    try:
        return head | _replies(asked.reply_in(answer, state))
    except LookupTimeout:
        return head
    except (PictureRejected, LookupFailed) as error:
        problem = Problem.of_lookup(error.reason, error.detail)
        return head | {"state": LookupState.FAILED.value, "problem": problem.document}


def encode(document: object) -> bytes:
    """A document as JSON."""
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()


def event(name: str, document: object) -> bytes:
    """A document as a server-sent event; its id says what was seen to whoever asks again."""
    return b"".join(
        (
            b"event: ",
            name.encode(),
            b"\nid: ",
            name.encode(),
            b"\ndata: ",
            encode(document),
            b"\n\n",
        )
    )


def _head(lookup_id: str, state: LookupState) -> dict[str, Any]:
    return {"id": lookup_id, "url": f"{LOOKUPS}/{lookup_id}", "state": state.value}


def _replies(batch: BatchReply) -> dict[str, Any]:
    return {
        "replies": [_reply(each) for each in batch.replies],
        "not_found": list(batch.not_found),
    }


def _reply(reply: Reply) -> dict[str, Any]:
    document = reply.model_dump(mode="json")
    for each, match in zip(document["matches"], reply.matches, strict=True):
        each["similarity"] = round(match.similarity, 6)
    return document
