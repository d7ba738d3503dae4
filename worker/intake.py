"""What comes off a queue is believed in one form only, and signed; the rest is refused, and kept to be seen."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from db.errors import DatabaseError_
from db.queries import dead_letters
from db.queries.dead_letters import NewDeadLetter
from db.session import Database
from producer import logs
from producer.ids import new_id
from producer.messages import MAX_MESSAGE
from producer.reasons import Reason
from producer.redaction import without_secrets
from producer.signing import Signer

log = logging.getLogger(__name__)

KEPT = 1000
"""Refused messages that are kept, the newest: whoever can write to a queue must not fill the disk."""
SHOWN = 4000
"""Characters of one that are kept."""
_ID = re.compile(r"[0-9a-f-]{36}")

Refuse = Callable[["Refused"], None]


@dataclass(frozen=True)
class Refused:
    """A message that is not worked on, and why."""

    detail: str
    queue: str | None = None
    task: str | None = None
    id: str | None = None
    body: str | bytes = b""


class Unacceptable(Exception):
    """Why a message is refused."""


@dataclass(frozen=True)
class Intake:
    """Looks at messages before anything of ours is done with them."""

    database: Database
    tasks: Collection[str]
    """Names of those that may be asked for."""
    signer: Signer | None = None

    def look(self, message: Any) -> Refused | None:
        """Why a message of the broker's is refused, if it is: judged by its size, its form and its signature."""
        try:
            self._check(message)
        except Unacceptable as why:
            headers = message.headers if isinstance(message.headers, dict) else {}
            return Refused(
                str(why),
                _text(message.delivery_info.get("routing_key")),
                _text(headers.get("task")),
                _text(headers.get("id")),
                message.body if isinstance(message.body, str | bytes) else repr(message.body),
            )
        return None

    def _check(self, message: Any) -> None:
        if message.content_type != "application/json" or message.content_encoding != "utf-8":
            raise Unacceptable(f"it is {message.content_type!r}: only JSON in UTF-8 is read")
        body = message.body if isinstance(message.body, str | bytes) else b""
        if len(body) > MAX_MESSAGE:
            raise Unacceptable(f"it has {len(body):,} bytes; at most {MAX_MESSAGE:,} are read")
        task = message.headers.get("task") if isinstance(message.headers, dict) else None
        if not isinstance(task, str) or task not in self.tasks:
            raise Unacceptable(f"the task {_text(task)!r} is not one of ours")
        if message.headers.get("eta") is not None:
            raise Unacceptable("it is to be done at a later time, which none of ours is")
        self._check_arguments(task, _arguments(body))

    def _check_arguments(self, task: str, arguments: list[Any]) -> None:
        if self.signer is None:
            return
        if len(arguments) != 2 or not self.signer.believes(task, *arguments):
            raise Unacceptable(
                "it is not signed with a key of LOOKALIKE_SIGNING_KEYS, which producers need, too"
            )

    def refuse(self, refused: Refused) -> None:
        """Keep it as a dead letter, without what may be secret in it; without a database in the log alone."""
        with logs.about(refused.id if refused.id and _ID.fullmatch(refused.id) else None):
            self._keep(refused)

    def _keep(self, refused: Refused) -> None:
        log.error("a message is refused: %s", refused.detail)
        letter = NewDeadLetter(
            job_id=refused.id if refused.id and _ID.fullmatch(refused.id) else new_id(),
            product_id=None,
            name=None,
            reason=Reason.INVALID_MESSAGE,
            detail=without_secrets(refused.detail),
            attempts=1,
            message={"queue": refused.queue, "task": refused.task, "body": _shown(refused.body)},
            created_at=datetime.now(UTC),
        )
        try:
            with self.database.writing() as session:
                dead_letters.add(session, [letter])
                dead_letters.keep_newest(session, Reason.INVALID_MESSAGE, KEPT)
        except DatabaseError_ as error:
            log.warning("the refused message is not kept: %s", error)


def _arguments(body: str | bytes) -> list[Any]:
    """The positional arguments of a task: the message and, if it has one, its signature."""
    try:
        arguments, keywords, embedded = json.loads(body)
    except (ValueError, TypeError, RecursionError) as error:
        raise Unacceptable(f"it is not a task of Celery's: {type(error).__name__}") from None
    if not isinstance(arguments, list) or len(arguments) not in {1, 2} or keywords != {}:
        raise Unacceptable("a message and its signature are all that a task of ours is given")
    if not isinstance(embedded, dict) or any(embedded.values()):
        raise Unacceptable("other tasks hang on it, which none does on ours")
    return arguments


def _text(value: object) -> str | None:
    return value[:200].replace("\x00", "�") if isinstance(value, str) else None


def _shown(body: str | bytes) -> str:
    start = body[: 4 * SHOWN]
    text = start.decode("utf-8", "replace") if isinstance(start, bytes) else start
    printable = text.encode("utf-8", "replace").decode().replace("\x00", "�")
    return without_secrets(printable)[:SHOWN]
