"""Every promise that is tried, in the order in which they are printed."""

from __future__ import annotations

from tests.faults import (
    crashes,
    database_outages,
    disk_full,
    emptied,
    flood,
    index_steps,
    killer,
    kills,
    late_messages,
    paused,
    redis_outages,
    rollover,
    soak,
    stops,
)
from tests.faults.promise import Promise

PROMISES: tuple[Promise, ...] = (
    Promise(
        "kills",
        "kill -9 of the whole worker group at random moments: 0 lost, 0 twice, vectors as in a clean run",
        kills.show,
    ),
    Promise("crash-points", "every named crash point visited, all converge", crashes.show),
    Promise(
        "redis",
        "Redis restarted, away, cut off, stopped: consumption resumes within 60 s by itself, 0 lost",
        redis_outages.show,
    ),
    Promise(
        "emptied",
        "Redis emptied (FLUSHALL): sync restores the missing work, applied work is untouched",
        emptied.show,
    ),
    Promise(
        "database",
        "database restarted, cut in mid-commit, locked, away: 0 lost, 0 partial products",
        database_outages.show,
    ),
    Promise("paused", "a paused worker wakes after its lease: its write is rejected", paused.show),
    Promise(
        "killer",
        "a picture that kills its worker: dead letter after 3 deaths, the others finish",
        killer.show,
    ),
    Promise(
        "stops",
        "SIGTERM under load: exit within the grace period + 2 s, nothing lost, no attempt counted",
        stops.show,
    ),
    Promise(
        "index-steps",
        "rebuild killed at each step, two beats, two builders: one winner each, pointer whole, never backwards",
        index_steps.show,
    ),
    Promise(
        "disk-full",
        "disk full while building: old generation serves, no litter, clear error, recovers by itself",
        disk_full.show,
    ),
    Promise(
        "late-messages",
        "duplicate, late and reordered messages, both databases: state equals the newest message",
        late_messages.show,
    ),
    Promise(
        "flood",
        "a flood of queued images: memory bounded (100 MB), lookup p95 at most twice its idle value",
        flood.show,
    ),
    Promise(
        "rollover",
        "a model rolled out and back under load: 0 errors, 0 mixed answers, lookup p95 at most 1.5 times as long",
        rollover.show,
    ),
    Promise(
        "soak",
        "mixed load, swaps, kills, 5 % bad pictures: 0 lost, 0 twice; memory, descriptors, files flat",
        soak.show,
    ),
)
