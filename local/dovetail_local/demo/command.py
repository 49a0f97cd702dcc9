"""`dovetail demo`: the books on standard output, everything else on standard error."""

import json
from typing import Annotated, Any

import typer

from dovetail_local.demo.books import Books

_UNREACHABLE, _UNBALANCED = 3, 4
_INTERRUPTED = 130
_FAILED = 1


def demo(
    context: typer.Context,
    seconds: Annotated[
        int, typer.Option(min=1, max=3600, help="How long orders come in.", envvar="DOVETAIL_DEMO_SECONDS")
    ] = 20,
    output: Annotated[str | None, typer.Option(help="How the books are printed: table or json.")] = None,
    *,
    keep: Annotated[
        bool, typer.Option("--keep", help="Leave the servers running, with all in them.", envvar="DOVETAIL_DEMO_KEEP")
    ] = False,
) -> None:
    """Run a shop on real servers, kill the relay again and again, and balance the books; exit 4 if they do not."""
    output = output or getattr(context.find_root().obj, "output", "table")
    if output not in {"table", "json", "jsonl"}:
        raise typer.BadParameter(f"{output!r} is not one of table, json", param_hint="--output")
    import psycopg  # noqa: PLC0415 - `dovetail local env` is not to wait for all this
    from confluent_kafka import KafkaException  # noqa: PLC0415

    from dovetail_local.demo.run import run  # noqa: PLC0415
    from dovetail_local.demo.screen import screen  # noqa: PLC0415
    from dovetail_local.demo.topic import Unreadable  # noqa: PLC0415
    from dovetail_local.errors import LocalError  # noqa: PLC0415

    try:
        books = run(seconds, screen(), keep=keep)
    except LocalError as error:
        raise _ended(error, error.exit_code) from None
    except psycopg.OperationalError as error:
        raise _ended(error, _UNREACHABLE) from None
    except KafkaException as error:
        raise _ended(f"Kafka: {error.args[0].str()}", _UNREACHABLE) from None
    except (psycopg.Error, Unreadable) as error:
        raise _ended(error, _FAILED) from None
    except KeyboardInterrupt:
        raise _ended("interrupted; nothing was left running", _INTERRUPTED) from None
    raise typer.Exit(report(books, output))


def report(books: Books, output: str) -> int:
    """Print the books and give the exit code."""
    typer.echo(_as_table(books.counts()) if output == "table" else json.dumps(books.counts()))
    typer.echo("the books balance" if books.balanced else "the books do not balance", err=True)
    return 0 if books.balanced else _UNBALANCED


def _as_table(counts: dict[str, int]) -> str:
    return "\n".join(f"{name:<14}{count:>9}" for name, count in counts.items())


def _ended(why: Any, code: int) -> typer.Exit:
    typer.echo(f"dovetail demo: {' '.join(str(why).split())}", err=True)
    return typer.Exit(code)
