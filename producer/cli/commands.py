"""The commands of `lookalike`: each a thin layer over `Producer`."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from producer import checks
from producer.cli import adding, overview, picking, results, serving, syncing
from producer.cli.stall import watched
from producer.cli.terminal import Terminal, report
from producer.client import Producer
from producer.errors import InvalidRequest, LookalikeError, LookupError_, ProductNotFound
from producer.gallery import render
from producer.messages import MAX_BATCH, MAX_MATCHES, BatchReply, Outcome, Reply
from producer.pictures import PictureSource, is_address, read_bytes
from producer.where import parse_attributes

app = typer.Typer(
    name="lookalike",
    help="Show me products that look like this one.",
    no_args_is_help=False,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Settings come from the environment and .env: LOOKALIKE_REDIS_URL, LOOKALIKE_MAX_BACKLOG …",
)
# What typer raises for bad usage; it brings its own copy of click, or not, by its version.
_UsageProblem: type[Exception] = typer.BadParameter.__mro__[2]

INTERRUPTED = 130

Json = Annotated[bool, typer.Option("--json", help="Write JSON to stdout, and errors as JSON.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Write no progress and no notes.")]
Timeout = Annotated[float, typer.Option("--timeout", min=0, help="Seconds to wait for an answer.")]
FailWhenFull = Annotated[
    bool, typer.Option("--fail-when-full", help="Fail instead of waiting for the workers.")
]
Wait = Annotated[bool, typer.Option("--wait", help="Wait until all is applied; list what failed.")]
Upload = Annotated[
    bool, typer.Option("--upload", help="Send local pictures' bytes, for workers elsewhere.")
]
SkipMissing = Annotated[
    bool, typer.Option("--skip-missing", help="Leave out rows whose picture does not exist.")
]
WaitTimeout = Annotated[
    float | None, typer.Option("--timeout", min=0, help="Seconds to --wait at most.")
]


@app.callback(invoke_without_command=True)
def lookalike(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False,
) -> None:
    """Show me products that look like this one."""
    if version:
        from importlib.metadata import version as installed

        typer.echo(f"lookalike {installed('lookalike')}")
    elif context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command()
def add(
    *,
    sku: Annotated[str | None, typer.Argument(help="The product's id.", show_default=False)] = None,
    images: Annotated[
        list[str] | None,
        typer.Argument(help="Its pictures: paths or addresses.", show_default=False),
    ] = None,
    source: Annotated[
        Path | None,
        typer.Option("--from", help="A .csv or .jsonl catalogue, or a folder of pictures."),
    ] = None,
    category: Annotated[str | None, typer.Option("--category", "-c")] = None,
    attr: Annotated[
        list[str] | None, typer.Option("--attr", "-a", help="KEY=VALUE. May be repeated.")
    ] = None,
    wait: Wait = False,
    timeout: WaitTimeout = None,
    upload: Upload = False,
    skip_missing: SkipMissing = False,
    fail_when_full: FailWhenFull = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Make products searchable: one with its pictures, or a whole catalogue.

    Columns of a CSV, or keys of JSON lines: product_id,image[,name,category,version,…attributes]. In a folder
    a sub-folder is a category and a file's stem the product's id.
    """
    attributes = parse_attributes(attr or ())
    if source is not None:
        if sku is not None:
            raise InvalidRequest("give either SKU IMAGE… or --from, not both")
        read = adding.from_catalogue(source, category, attributes)
    elif sku is None or not images:
        raise InvalidRequest(
            "give a SKU and its pictures, or --from FILE.csv, FILE.jsonl or FOLDER"
        )
    else:
        read = lambda: adding.from_arguments(sku, images, category, attributes)  # noqa: E731
    batch = adding.check(read, upload=upload, skip_missing=skip_missing)
    with Producer.from_env() as shop:
        code = adding.send(
            shop,
            batch,
            Terminal(json, quiet),
            wait=wait,
            timeout=timeout,
            when_full="raise" if fail_when_full else "wait",
        )
    raise typer.Exit(code)


@app.command()
def sync(
    *,
    source: Annotated[
        Path, typer.Option("--from", help="The whole catalogue: .csv, .jsonl, or a folder.")
    ],
    delete: Annotated[
        bool, typer.Option("--delete", help="Remove products that are not in it.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", "-n", help="Send nothing; say what would be.")
    ] = False,
    checksum: Annotated[
        bool,
        typer.Option("--checksum", help="Compare the bytes of local files, not where they are."),
    ] = False,
    wait: Wait = False,
    timeout: WaitTimeout = None,
    upload: Upload = False,
    skip_missing: SkipMissing = False,
    fail_when_full: FailWhenFull = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Compare a whole catalogue with the service's, and send only what differs.

    After a Redis that lost everything, this sends what had not been applied. A picture counts as the same when
    it is from the same path or address; uploaded ones, and with --checksum local files, when their bytes are the
    same.
    """
    if delete and skip_missing:
        raise InvalidRequest(
            "--skip-missing and --delete do not go together: products whose pictures cannot be found would be "
            "removed"
        )
    read = adding.from_catalogue(source, None, {})
    batch = adding.check(read, upload=upload, skip_missing=skip_missing)
    with Producer.from_env() as shop:
        code = syncing.synchronise(
            shop,
            batch,
            Terminal(json, quiet),
            delete=delete,
            dry_run=dry_run,
            checksum=checksum,
            wait=wait,
            timeout=timeout,
            when_full="raise" if fail_when_full else "wait",
        )
    raise typer.Exit(code)


@app.command()
def similar(
    *,
    skus: Annotated[
        list[str] | None,
        typer.Argument(metavar="SKU", help="Products to look like.", show_default=False),
    ] = None,
    image: Annotated[
        list[str] | None,
        typer.Option(
            "--image", "-i", metavar="PICTURE", help="Picture to look like: a path or address."
        ),
    ] = None,
    dislike: Annotated[
        list[str] | None,
        typer.Option("--dislike", metavar="SKU", help="Product to look unlike. May be repeated."),
    ] = None,
    dislike_image: Annotated[
        list[str] | None,
        typer.Option("--dislike-image", metavar="PICTURE", help="Picture to look unlike."),
    ] = None,
    limit: picking.Limit = 10,
    category: picking.Category = None,
    where: picking.Where = None,
    min_similarity: picking.MinSimilarity = None,
    collapse: picking.Collapse = None,
    at_most: picking.AtMost = None,
    diversity: picking.Diversity = 0.0,
    timeout: Timeout = 10.0,
    no_wait: Annotated[
        bool, typer.Option("--no-wait", help="Print the lookup's id; see `lookalike result`.")
    ] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Show products that look like a product, like a picture, or like several together."""
    terminal = Terminal(json, quiet)
    if not skus and not image:
        raise InvalidRequest("give a product id or --image, or several")
    pick = picking.pick(
        limit=limit,
        category=category,
        where=where,
        min_similarity=min_similarity,
        collapse=collapse,
        at_most=at_most,
        diversity=diversity,
    )
    with Producer.from_env() as shop:
        lookup = shop.find_similar(
            skus,
            image=_pictures(image),
            disliked=dislike or (),
            disliked_image=_pictures(dislike_image),
            limit=pick.limit,
            where=pick.where,
            **pick.options,
        )
        if no_wait:
            terminal.data({"lookup": lookup.id}) if json else terminal.line(lookup.id)
            return
        asked = results.Asked(pick, by_product=bool(skus or dislike))
        results.show(terminal, lookup.result(timeout), asked)


@app.command()
def result(
    *,
    lookup_id: Annotated[str, typer.Argument(help="What `similar --no-wait` printed.")],
    timeout: Timeout = 0.0,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Show the reply to a lookup that was asked before, here or elsewhere."""
    with Producer.from_env() as shop:
        batch = shop.batch(lookup_id).result(timeout)
    results.show_batch(Terminal(json, quiet), batch)


@app.command()
def remove(
    *,
    skus: Annotated[list[str], typer.Argument(help="The products' ids.")],
    wait: Annotated[bool, typer.Option("--wait", help="Wait until they are gone.")] = False,
    timeout: WaitTimeout = None,
    fail_when_full: FailWhenFull = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Take products out."""
    terminal = Terminal(json, quiet)
    with Producer.from_env() as shop, watched(shop, terminal):
        receipts = shop.remove(*skus, when_full="raise" if fail_when_full else "wait")
        outcome = shop.wait_for(receipts, timeout) if wait else None
    ended = outcome.model_dump(mode="json") if outcome is not None else {}
    if json:
        terminal.data({"accepted": len(skus), "jobs": [each.id for each in receipts]} | ended)
    else:
        terminal.note(_removed(len(skus), outcome))
    if outcome is not None and outcome.failures:
        if not json:
            adding.show_failures(terminal, outcome)
        raise typer.Exit(1)


@app.command()
def status(
    *,
    timeout: Timeout = 3.0,
    watch: Annotated[bool, typer.Option("--watch", help="Show it again and again.")] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Show what waits in the queues, and how the service is."""
    terminal = Terminal(json, quiet)
    with Producer.from_env() as shop:
        if watch:
            overview.watch(shop, terminal, timeout)
        else:
            raise typer.Exit(overview.show(shop, terminal, timeout))


@app.command()
def gallery(
    *,
    skus: Annotated[list[str], typer.Argument(help="The products' ids.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The HTML file to write.")],
    limit: picking.Limit = 8,
    category: picking.Category = None,
    where: picking.Where = None,
    min_similarity: picking.MinSimilarity = None,
    collapse: picking.Collapse = None,
    at_most: picking.AtMost = None,
    diversity: picking.Diversity = 0.0,
    title: Annotated[str, typer.Option("--title")] = "Looks like this",
    timeout: Timeout = 30.0,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write a page that shows products with what looks like them; it opens in any browser."""
    terminal = Terminal(json, quiet)
    if not out.absolute().parent.is_dir():
        raise InvalidRequest(
            f"cannot write {out}: the folder {out.absolute().parent} does not exist"
        )
    pick = picking.pick(
        limit=limit,
        category=category,
        where=where,
        min_similarity=min_similarity,
        collapse=collapse,
        at_most=at_most,
        diversity=diversity,
    )
    with Producer.from_env() as shop:
        replies, not_found = _all_similar(shop, skus, pick, timeout)
        if not replies:
            raise _none_found(not_found)
        wanted = [(sku, "main") for sku in skus] + [
            (match.product_id, match.name) for reply in replies for match in reply.matches
        ]
        thumbnails = shop.thumbnails(list(dict.fromkeys(wanted)), timeout)
    if not_found:
        terminal.warn(f"not in the catalogue: {', '.join(not_found)}")
    facts = {"products": len(replies), "matches": sum(len(reply.matches) for reply in replies)}
    _write(out, render(replies, thumbnails, title=title, facts=facts))
    if json:
        terminal.data({"out": str(out), "replies": len(replies), "not_found": not_found})
    else:
        terminal.note(f"{out}: {len(replies):,} {'product' if len(replies) == 1 else 'products'}")


@app.command()
def serve(
    *,
    host: Annotated[
        str | None,
        typer.Option("--host", help="Address to listen on; LOOKALIKE_HTTP_HOST if not given."),
    ] = None,
    port: Annotated[
        int | None,
        typer.Option("--port", min=0, max=65_535, help="Port; LOOKALIKE_HTTP_PORT if not given."),
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Serve the HTTP gateway until Ctrl-C: the same as here, for clients in any language.

    Without LOOKALIKE_API_KEYS it listens on this machine's loopback address only.
    """
    serving.serve(Terminal(json, quiet), host, port)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command and exit: 0 fine, 1 failed, 2 bad usage, 130 interrupted."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    sys.exit(run(given))


def run(arguments: Sequence[str]) -> int:
    """Run the command; the exit code. Errors become one line on stderr, or JSON with --json."""
    as_json = "--json" in arguments
    try:
        code = app(list(arguments), prog_name="lookalike", standalone_mode=False)
        sys.stdout.flush()
    except LookalikeError as error:
        report(error, str(error), error.exit_code, as_json=as_json)
        return error.exit_code
    except _UsageProblem as error:
        text = f"{_usage(error)}; see `lookalike {_command(arguments)}--help`"
        report(error, text, 2, as_json=as_json)
        return 2
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except BrokenPipeError:  # whoever read the output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    if code == INTERRUPTED:
        sys.stderr.write("interrupted\n")
    return code if isinstance(code, int) else 0


def _usage(error: Any) -> str:
    return str(error.format_message()).rstrip(".")


def _command(arguments: Sequence[str]) -> str:
    known = {
        command.name or command.callback.__name__
        for command in app.registered_commands
        if command.callback
    }
    return next((f"{argument} " for argument in arguments if argument in known), "")


def _pictures(images: Sequence[str] | None) -> list[PictureSource]:
    return [image if is_address(image) else read_bytes(image) for image in images or ()]


def _removed(asked: int, outcome: Outcome | None) -> str:
    """What became of removals; a product that was never there is not said to have been removed."""
    if outcome is None:
        return f"{asked:,} {'removal' if asked == 1 else 'removals'} accepted"
    products = "product is" if outcome.applied == 1 else "products are"
    failed = f", {len(outcome.failures):,} failed" if outcome.failures else ""
    return f"{outcome.applied:,} {products} not in the catalogue any more{failed}"


def _none_found(not_found: list[str]) -> LookupError_:
    if len(not_found) == 1:
        return ProductNotFound(not_found[0])
    named = ", ".join(not_found[:10]) + (
        f" and {len(not_found) - 10} more" if len(not_found) > 10 else ""
    )
    return LookupError_(f"none of these products is in the catalogue: {named}")


def _all_similar(
    shop: Producer, skus: list[str], pick: picking.Pick, timeout: float
) -> tuple[list[Reply], list[str]]:
    size = min(MAX_BATCH, MAX_MATCHES // checks.limit(pick.limit))
    parts = [skus[start : start + size] for start in range(0, len(skus), size)]
    lookups = [
        shop.find_similar_many(part, pick.limit, pick.where, **pick.options) for part in parts
    ]
    batches: list[BatchReply] = [lookup.result(timeout) for lookup in lookups]
    return (
        [reply for batch in batches for reply in batch.replies],
        [sku for batch in batches for sku in batch.not_found],
    )


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, "utf-8")
    except OSError as error:
        raise InvalidRequest(f"cannot write {path}: {error.strerror or error}") from None
