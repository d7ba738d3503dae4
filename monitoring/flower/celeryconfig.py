"""What Flower must know of Lookalike's use of Celery: the prefix of its keys, and its queues.

Celery reads a module of this name by itself. Queues show always, and workers and tasks only with
LOOKALIKE_TASK_EVENTS=true.
"""

from kombu import Queue

broker_transport_options = {"global_keyprefix": "lookalike:"}
task_default_queue = "control"
task_queues = [Queue(name) for name in ("ingest", "query", "lookup", "index", "control")]
accept_content = ["json"]
