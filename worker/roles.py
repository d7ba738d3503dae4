"""What each role of worker does with each message: the one place where the parts are put together.

Only the roles that embed import the network, when they start; a search worker never loads torch.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import cached_property
from typing import TYPE_CHECKING, Any

from celery import Celery
from prometheus_client.registry import Collector
from pydantic import BaseModel
from redis import Redis
from threadpoolctl import threadpool_limits

from db.queries import models
from db.session import Database
from producer.broker import send
from producer.browsing import (
    Browse,
    CategoryList,
    Discard,
    FailureList,
    GenerationList,
    PastLookup,
    Requeue,
)
from producer.comparison import Comparison, ProductList
from producer.judging import JudgeMatch, JudgementList
from producer.ledger import Ledger
from producer.mailbox import Mailbox
from producer.messages import (
    BatchReply,
    IngestChunk,
    Message,
    PictureLookup,
    ProductLookup,
    Question,
    Queue,
    Reindex,
    RemoveChunk,
    Reply,
    StatusRequest,
    SweepLedger,
    TasteLookup,
    ThumbnailRequest,
    WatchIndex,
)
from worker import measures, shelf, survey
from worker.app import TICK_LIFE
from worker.backfill import Backfill
from worker.browsing import CategoryCounts, browse, failures, kept_generations
from worker.busy import Busy
from worker.carrying import CarryingExecutor
from worker.claims import Claims
from worker.clearing import Clearing
from worker.comparing import compare, list_products
from worker.courtesy import Courtesy, Visitors, aside
from worker.crew import Crew
from worker.departure import BROKEN, STUCK, Departure
from worker.desk import Desk
from worker.failures import RebuildFailures
from worker.freshness import Commits, Sightings
from worker.gauges import NetworkFigures, ViewFigures
from worker.index.errors import BuildFailed, BuildStopped, BuildSuperseded
from worker.index.follower import Follower
from worker.index.pin import PinReminder
from worker.index.rebuild import BuildSettings, RebuildLimits, due, read_state, rebuild
from worker.ingest import remove
from worker.jobs import Jobs
from worker.judging import judge, judgements_of
from worker.lookup import Answerer
from worker.past import Past
from worker.picture_answerer import PictureAnswerer
from worker.quarantine import Quarantine
from worker.sampling import Sampler
from worker.serving import Serving
from worker.settings import WorkerSettings
from worker.status import Status
from worker.sweep import sweep
from worker.thumbnails import thumbnails
from worker.watchdog import Sign

if TYPE_CHECKING:
    from worker.embedder import Studio

log = logging.getLogger(__name__)

Handlers = Mapping[type[Message], Callable[[Any], object]]
FETCH_THREADS = 16


class Role(StrEnum):
    """What a worker process is for."""

    EMBED = "embed"
    QUERY = "query"
    SEARCH = "search"
    INDEX = "index"


@dataclass(frozen=True)
class Process:
    """What every worker process has. What a role opens is closed by `closing`, last opened first."""

    settings: WorkerSettings
    app: Celery
    redis: Redis
    database: Database
    stopping: threading.Event
    """Set when the process was asked to stop."""
    closing: ExitStack
    signs: list[Sign] = field(default_factory=list)
    """By which the watchdog knows that what a role opened is stuck."""
    busy: Busy = field(default_factory=Busy)

    @cached_property
    def ledger(self) -> Ledger:
        """What is accepted and not yet applied."""
        return Ledger(self.redis, outcome_ttl=self.settings.outcome_ttl, signer=self.app.signer)

    @cached_property
    def claims(self) -> Claims:
        """What this process has claimed in it."""
        return Claims(self.ledger)

    @cached_property
    def departure(self) -> Departure:
        """The end of this process."""
        return Departure(
            self.busy,
            self.claims,
            lambda message: send(self.app, message),
            self.settings.grace,
            self.stopping,
        )

    @cached_property
    def jobs(self) -> Jobs:
        """Where jobs are done."""
        return Jobs(
            database=self.database,
            ledger=self.ledger,
            claims=self.claims,
            stopping=self.stopping,
            stop=lambda: self.departure.drain(BROKEN),
        )

    @cached_property
    def desk(self) -> Desk:
        """Where questions are answered."""
        return Desk(Mailbox(self.redis, self.settings.lookup_ttl))


@dataclass(frozen=True)
class Duty:
    """The queues of a role, most urgent first, how many messages it works on at once, and its handlers."""

    queues: tuple[Queue, ...]
    threads: int
    start: Callable[[Process], Handlers]
    yields: bool = False
    """Whether it leaves the processors to whoever else wants them, so that a flood of it delays no lookup."""


def _embed(process: Process) -> Handlers:
    studio, serving = _open_serving(process)
    executor = process.closing.enter_context(CarryingExecutor(FETCH_THREADS, "fetch"))
    visitors = Visitors(process.redis)
    process.closing.enter_context(Courtesy(visitors))
    crew = Crew(
        database=process.database,
        ledger=process.ledger,
        serving=serving,
        fetch=studio.fetch,
        executor=executor,
        open_quarantine=lambda model: Quarantine(process.settings, process.database, model.pk),
        on_commit=Commits(process.redis).note,
    )
    process.closing.callback(crew.close)
    backfill = Backfill(
        database=process.database,
        serving=serving,
        fetch=studio.fetch,
        executor=executor,
        is_busy=lambda: bool(process.busy.messages),
        is_asked=visitors.present,
    )
    backfill.start()
    process.closing.callback(backfill.stop)
    jobs = process.jobs
    return {IngestChunk: lambda chunk: jobs.do(chunk, crew.ingest)}


def _query(process: Process) -> Handlers:
    _, serving = _open_serving(process)
    answerer = _answerer(process)
    asker = PictureAnswerer(answerer, serving)
    desk, visitors = process.desk, Visitors(process.redis)

    def answer(question: PictureLookup) -> Reply | BatchReply:
        visitors.note()
        return asker.answer(question)

    return {PictureLookup: lambda question: desk.answer(question, lambda: answer(question))}


def _search(process: Process) -> Handlers:
    answerer = _answerer(process)
    desk, visitors = process.desk, Visitors(process.redis)

    def by_products(question: ProductLookup) -> None:
        visitors.note()
        desk.answer(question, lambda: answerer.by_products(question))

    def by_taste(question: TasteLookup) -> None:
        visitors.note()
        desk.answer(question, lambda: answerer.by_taste(question))

    return {ProductLookup: by_products, TasteLookup: by_taste}


def _index(process: Process) -> Handlers:
    database, redis, app = process.database, process.redis, process.app
    desk, ledger, jobs = process.desk, process.ledger, process.jobs
    reminder, status = PinReminder(), Status(database, redis)
    process.closing.enter_context(Courtesy(Visitors(redis)))
    for part in survey.parts(database, redis):
        _show(process, part)
    return {
        RemoveChunk: lambda chunk: jobs.do(chunk, lambda claim: remove(database, ledger, claim)),
        StatusRequest: lambda question: desk.answer(question, status.reply),
        ThumbnailRequest: lambda question: desk.answer(
            question, lambda: thumbnails(database, question.images)
        ),
        Comparison: lambda question: desk.answer(question, lambda: compare(database, question)),
        ProductList: lambda question: desk.answer(
            question, lambda: list_products(database, question)
        ),
        **_lookbook(process),
        WatchIndex: lambda _: _watch_index(process, reminder),
        Reindex: lambda message: _reindex(process, message),
        SweepLedger: lambda _: sweep(ledger, lambda job: send(app, job)),
    }


def _lookbook(process: Process) -> Handlers:
    """What people ask in front of a page, aside from the processes that answer shops."""
    database, settings, desk = process.database, process.settings, process.desk
    counts, clearing = CategoryCounts(database), Clearing(database, settings)
    past = Past(database, settings.data_dir)
    process.closing.callback(past.close)
    answers: Mapping[type[Question], Callable[[Any], BaseModel]] = {
        Browse: lambda question: browse(database, question),
        CategoryList: lambda _: counts.now(),
        GenerationList: lambda _: kept_generations(database, process.settings.data_dir),
        PastLookup: lambda question: aside(lambda: past.answer(question)),
        FailureList: lambda question: failures(database, question),
        Requeue: clearing.requeue,
        Discard: clearing.discard,
        JudgeMatch: lambda question: judge(database, question),
        JudgementList: lambda question: judgements_of(database, question),
    }

    def handler(answer: Callable[[Any], BaseModel]) -> Callable[[Any], object]:
        return lambda question: desk.answer(question, lambda: answer(question))

    return {kind: handler(answer) for kind, answer in answers.items()}


DUTIES: Mapping[Role, Duty] = {
    Role.EMBED: Duty((Queue.INGEST,), 3, _embed, yields=True),
    Role.QUERY: Duty((Queue.QUERY,), 8, _query),
    Role.SEARCH: Duty((Queue.LOOKUP,), 2, _search),
    Role.INDEX: Duty((Queue.CONTROL, Queue.INDEX), 3, _index),
}


def build_settings(settings: WorkerSettings, *, force: bool = False) -> BuildSettings:
    """How this service builds its generations."""
    trees = settings.trees
    return BuildSettings(
        engine=settings.engine,
        trees=trees if isinstance(trees, int) else 0,
        trees_per_category=trees == "categories",
        search_k=settings.search_k,
        reduce_to=settings.reduce_to,
        rerank=settings.rerank,
        recall_target=settings.recall_target,
        recall_margin=settings.recall_margin,
        force=force,
        keep=settings.keep_generations,
    )


def _open_serving(process: Process) -> tuple[Studio, Serving]:
    """The networks of the models that serve; LOOKALIKE_MODEL is the first of a catalogue that has none."""
    from worker.embedder import Embedder, Studio

    settings, database = process.settings, process.database
    remark = shelf.beside_the_active(settings, database)
    if remark:
        log.warning("%s", remark)
    _register_first(settings, database)
    studio = process.closing.enter_context(Studio(settings, process.redis))
    serving = Serving(
        database,
        lambda model: Embedder(settings, process.redis, shelf.find(settings, model), studio),
    )
    process.closing.callback(serving.stop)
    limit = settings.embed_timeout
    complaint = f"the network does not end a batch in {limit:.0f} s (LOOKALIKE_EMBED_TIMEOUT)"
    process.signs.append(Sign(complaint, lambda: serving.busy_for > limit, 0.0, STUCK))
    serving.start()
    _show(process, NetworkFigures(serving))
    return studio, serving


def _register_first(settings: WorkerSettings, database: Database) -> None:
    with database.reading() as session:
        if models.active(session) is not None:
            return
    config = shelf.keep(settings.data_dir, settings.model).config
    with database.writing() as session:
        models.register(
            session,
            digest=config.digest,
            name=config.name,
            dimension=config.dimension,
            config=config.model_dump(mode="json"),
            source=shelf.name_of(settings.model),
        )


def _answerer(process: Process) -> Answerer:
    # Lookups run side by side already; BLAS threads under each of them would only get in their way.
    process.closing.enter_context(threadpool_limits(limits=1, user_api="blas"))
    sightings = process.closing.enter_context(Sightings(process.redis, measures.searchable))
    follower = Follower(process.database, process.settings.data_dir, on_revision=sightings.see)
    follower.start()
    process.closing.callback(follower.stop)
    sampler = process.closing.enter_context(
        Sampler(process.settings.recall_sample, lambda: bool(process.busy.messages))
    )
    _show(process, ViewFigures(follower, process.settings.recall_target))
    return Answerer(process.database, follower, sampler)


def _show(process: Process, figures: Collector) -> None:
    measures.REGISTRY.register(figures)
    process.closing.callback(measures.REGISTRY.unregister, figures)


def _watch_index(process: Process, reminder: PinReminder) -> None:
    limits = RebuildLimits(
        max_age=timedelta(seconds=process.settings.rebuild_every),
        max_pending=process.settings.rebuild_after_changes,
    )
    state = read_state(process.database, process.settings.data_dir)
    reminder.look(state, limits)
    failure = RebuildFailures(process.redis).last()
    if failure is not None:
        state = replace(state, failures=failure.count, failed_at=failure.failed_at)
    reason = due(state, limits, datetime.now(UTC))
    if reason:
        send(process.app, Reindex(reason=reason), expires=TICK_LIFE)


def _reindex(process: Process, message: Reindex) -> None:
    log.info("rebuilding the index: %s", message.reason)
    settings, failures = process.settings, RebuildFailures(process.redis)
    with measures.rebuilding() as ending:
        try:
            built = aside(
                lambda: rebuild(
                    process.database,
                    settings.data_dir,
                    build_settings(settings),
                    stop=process.stopping.is_set,
                )
            )
        except (BuildStopped, BuildSuperseded) as stopped:
            ending.outcome = "stopped"
            log.info("not rebuilt: %s", stopped)
        except (BuildFailed, OSError) as error:
            log.exception("not rebuilt; lookups go on with the generation before")
            failures.add(str(error))
        else:
            ending.outcome = "needless" if built is None else "built"
            if built is not None:
                log.info(
                    "generation %d is current: %d pictures up to revision %d, recall@10 %.3f, %.1f s, "
                    "peak memory %.0f MiB",
                    built.number,
                    built.images,
                    built.revision,
                    built.recall,
                    built.seconds,
                    built.peak_memory / 2**20,
                )
                failures.clear()
