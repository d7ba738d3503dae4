"""What `lookalike status` shows of the catalogue and the index."""

from __future__ import annotations

from redis import Redis

from db.queries import catalogue, dead_letters, generations, models
from db.session import Database
from producer.depths import depths
from producer.messages import GenerationStatus, StatusReply, WorkerStatus
from worker.failures import RebuildFailures
from worker.freshness import freshness
from worker.heartbeat import beating


def status(database: Database, redis: Redis) -> StatusReply:
    """Read the state of the catalogue in one snapshot, and who is at work."""
    workers = [
        WorkerStatus(role=beat.role, host=beat.host, pid=beat.pid, started_at=beat.started_at)
        for beat in beating(redis)
    ]
    failure = RebuildFailures(redis).last()
    queues, fresh = depths(redis), freshness(redis)
    with database.reading() as session:
        counts = catalogue.count(session)
        head = catalogue.head(session)
        generation = generations.current(session)
        pinned = generations.pointer(session).pinned
        model = models.active(session)
        since = generation.revision if generation else 0
        return StatusReply(
            products=counts.products,
            images=counts.images,
            revision=head.revision,
            pending=catalogue.count_changes_since(session, since),
            model_version=model.digest if model else None,
            model_name=model.name if model else None,
            generation=GenerationStatus(
                number=generation.number,
                revision=generation.revision,
                images=generation.images,
                built_at=generation.created_at,
                recall=generation.recall,
                pinned=pinned,
            )
            if generation
            else None,
            dead_letters=dead_letters.count_by_reason(session),
            workers=tuple(workers),
            rebuild_failure=failure.reason if failure else None,
            queues=queues,
            freshness=fresh,
        )
