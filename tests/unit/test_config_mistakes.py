"""Configurations that look right and are not: each is refused at once, with what was written and what is allowed."""

from __future__ import annotations

from pathlib import Path

import pytest

from dovetail_relay.config import load
from dovetail_relay.errors import ConfigInvalid

HERE = {
    "DOVETAIL_POSTGRES__DSN": "host=localhost dbname=shop user=relay",
    "DOVETAIL_KAFKA__BOOTSTRAP_SERVERS": "localhost:9092",
}


def problem(text: str, tmp_path: Path, encoding: str = "utf-8", **environ: str) -> str:
    file = tmp_path / "dovetail.toml"
    file.write_text(text, encoding=encoding)
    with pytest.raises(ConfigInvalid) as caught:
        load(file, HERE | environ)
    (found,) = caught.value.problems
    return found


def loads(text: str, tmp_path: Path) -> bool:
    file = tmp_path / "dovetail.toml"
    file.write_text(text)
    load(file, HERE)
    return True


def test_routes_of_one_topic_say_the_same_number_of_partitions(tmp_path: Path) -> None:
    one = '[routes.a]\ntopic = "outbox.event.x"\npartitions = 3\n[routes.b]\ntopic = "outbox.event.x"\n'
    assert problem(one, tmp_path) == (
        "routes.b.partitions: 6 for topic outbox.event.x, and 3 by routes.a; a topic has one number: say the same"
    )
    assert loads(one + "partitions = 3\n", tmp_path)


def test_a_byte_order_mark_is_named(tmp_path: Path) -> None:
    assert "begins with a byte order mark" in problem('[relay]\nname = "x"\n', tmp_path, "utf-8-sig")


def test_a_table_and_a_key_that_are_there_twice_are_named_with_their_place(tmp_path: Path) -> None:
    twice = "[routes.order]\npartitions = 3\n[routes.order]\npartitions = 4\n"
    assert "the table [routes.order] is there twice, the second time at line 3" in problem(twice, tmp_path)
    secret = '[postgres]\ndsn = "password=hunter2"\ndsn = "password=hunter2"\n'
    said = problem(secret, tmp_path)
    assert "a key is given twice, the second time at line 3" in said
    assert "hunter2" not in said


@pytest.mark.parametrize("columns", ['{ payload = "type" }', '{ payload = "body", headers = "body" }'])
def test_a_column_is_not_read_as_two_of_ours(columns: str, tmp_path: Path) -> None:
    assert "each needs a column of its own" in problem(f"[outbox]\ncolumns = {columns}\n", tmp_path)
    assert loads('[outbox]\ncolumns = { id = "event_id", aggregateid = "id" }\n', tmp_path)


@pytest.mark.parametrize("url", ["not a url", "registry:8081", "ftp://registry", "http://", "http://x:99999"])
def test_a_registry_is_at_a_url(url: str, tmp_path: Path) -> None:
    assert problem(f'[registry]\nurl = "{url}"\n', tmp_path).startswith("registry.url: ")
    assert loads('[registry]\nurl = "https://registry:8081/api"\n', tmp_path)


@pytest.mark.parametrize("source", ["a shop", "/50%", "1shop:orders", "<shop>"])
def test_a_source_is_a_uri_reference(source: str, tmp_path: Path) -> None:
    assert problem(f'[outbox]\nsource = "{source}"\n', tmp_path).startswith("outbox.source: ")


def test_every_form_of_a_uri_reference_is_a_source(tmp_path: Path) -> None:
    for source in ("/shop/orders", "shop", "https://shop.example/a?b#c", "urn:uuid:6e8bc430", "/50%25", "//host/a:b"):
        assert loads(f'[outbox]\nsource = "{source}"\n', tmp_path)


def test_connecting_does_not_take_as_long_as_the_lease(tmp_path: Path) -> None:
    said = problem("[postgres]\nconnect_timeout_seconds = 10\n", tmp_path)
    assert said.startswith("postgres.connect_timeout_seconds: 10 is not below relay.lease_seconds, 10")
    assert loads("[postgres]\nconnect_timeout_seconds = 9\n", tmp_path)
    followed = load(None, HERE | {"DOVETAIL_RELAY__LEASE_SECONDS": "4"})
    assert followed.postgres.connect_timeout_seconds == 3


@pytest.mark.parametrize("dsn", ["host=localhost port=abc", "postgresql://u:hunter2@db:54x2/shop", "host=a,b port=1,0"])
def test_a_port_that_is_no_number_is_told_at_once_and_not_tried_again_and_again(dsn: str, tmp_path: Path) -> None:
    said = problem("", tmp_path, DOVETAIL_POSTGRES__DSN=dsn, DOVETAIL_POSTGRES__INSECURE="true")
    assert said.startswith("postgres.dsn: has the port ")
    assert "hunter2" not in said


def test_a_list_and_a_table_have_a_form_for_the_environment() -> None:
    environ = {"DOVETAIL_OUTBOX__HEADERS": "dovetail,cloudevents", "DOVETAIL_OUTBOX__COLUMNS": "payload=body,type=kind"}
    outbox = load(None, HERE | environ).outbox
    assert outbox.headers == ("dovetail", "cloudevents")
    assert dict(outbox.columns) == {"payload": "body", "type": "kind"}
