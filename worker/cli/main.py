"""`lookalike-worker`: starts, prepares and looks after the service. Exit codes: 0 fine, 1 failed, 2 bad usage."""

from __future__ import annotations

import sys

import typer
from redis.exceptions import RedisError

from db.errors import DatabaseError_, InvalidDatabaseUrl
from producer.errors import LookalikeError
from producer.transport import unavailable
from worker.cli.catalogue import migrate
from worker.cli.dead import dead, discard, requeue
from worker.cli.evaluating import evaluate
from worker.cli.index import reindex, rollback
from worker.cli.judgements import judgements
from worker.cli.models import models
from worker.cli.samples import demo, sample
from worker.cli.service import check, health, run, up
from worker.cli.shell import BAD_USAGE, FAILED, INTERRUPTED, fail, settings
from worker.cli.training import train
from worker.cli.verify import verify
from worker.embedding.errors import ModelError
from worker.errors import RolloutRefused, StartError
from worker.index.errors import IndexError_
from worker.training.errors import TrainingError

app = typer.Typer(
    name="lookalike-worker",
    help="Run the Lookalike service: it embeds pictures, keeps the index, and answers lookups.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for _command in (up, run, demo, sample, migrate, reindex, rollback, verify, check, health, train):
    app.command()(_command)
for _command in (evaluate, judgements):
    app.command()(_command)
app.add_typer(dead, name="dead")
app.add_typer(models, name="models")
for _command in (requeue, discard):
    app.command()(_command)


def main() -> None:
    """Run the command line; every expected error is one line and an exit code."""
    try:
        app()
    except LookalikeError as error:
        fail(error, error.exit_code)
    except InvalidDatabaseUrl as error:
        fail(error, BAD_USAGE)
    except (
        StartError,
        DatabaseError_,
        ModelError,
        IndexError_,
        RolloutRefused,
        TrainingError,
    ) as error:
        fail(error, FAILED)
    except RedisError as error:
        fail(unavailable(error, settings().redis_url.get_secret_value()), FAILED)
    except OSError as error:
        fail(StartError(f"{error}: check LOOKALIKE_DATA_DIR and the folders named"), FAILED)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
