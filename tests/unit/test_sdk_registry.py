"""Schemas over HTTP: what is final, what may be tried again, and what is kept."""

import json
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from dovetail.errors import RegistryUnavailable, SchemaInvalid, SchemaUnknown
from dovetail.registry import HttpSchemas

GOOD = json.dumps({"schema": '"string"'}).encode()
ANSWERS = {
    1: (200, GOOD),
    2: (500, b"{}"),
    3: (302, b""),
    4: (200, b"not json"),
    5: (200, json.dumps({"schema": "syntax = ...", "schemaType": "PROTOBUF"}).encode()),
    6: (200, json.dumps({"schema": "{"}).encode()),
    7: (401, b"{}"),
    8: (200, b"[]"),
    9: (200, b'"' + b"x" * 3_000_000),
}


class Registry(BaseHTTPRequestHandler):
    asked: Counter[str] = Counter()

    def do_GET(self):
        Registry.asked[self.path] += 1
        number = int(self.path.rpartition("/")[2])
        status, body = ANSWERS.get(number, (200, GOOD) if number >= 100 else (404, b"{}"))
        self.send_response(status)
        if status == 302:
            self.send_header("Location", "/schemas/ids/1")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def url():
    Registry.asked.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Registry)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_schema_is_fetched_once_and_kept(url):
    schemas = HttpSchemas(url + "/")
    assert schemas.codec(1) is schemas.codec(1)
    assert Registry.asked == {"/schemas/ids/1": 1}


def test_only_so_many_are_kept(url):
    schemas = HttpSchemas(url, max_schemas=2)
    for number in (100, 101, 102, 101, 102, 100):
        schemas.codec(number)
    assert Registry.asked["/schemas/ids/101"] == 1
    assert Registry.asked["/schemas/ids/100"] == 2


def test_row_64_not_found_is_final(url):
    with pytest.raises(SchemaUnknown, match="no schema 99"):
        HttpSchemas(url).codec(99)


@pytest.mark.parametrize("number", [2, 3, 4, 7, 8, 9])
def test_row_64_an_answer_that_is_no_answer_may_be_tried_again_and_is_not_kept(url, number):
    schemas = HttpSchemas(url)
    for _ in range(2):
        with pytest.raises(RegistryUnavailable):
            schemas.codec(number)
    assert Registry.asked == {f"/schemas/ids/{number}": 2}


def test_a_schema_that_is_not_avro_is_final(url):
    with pytest.raises(SchemaUnknown):
        HttpSchemas(url).codec(5)
    with pytest.raises(SchemaInvalid):
        HttpSchemas(url).codec(6)


def test_a_registry_that_is_not_there_may_be_tried_again():
    with pytest.raises(RegistryUnavailable, match="cannot be reached"):
        HttpSchemas("http://127.0.0.1:1", timeout_seconds=1).codec(1)


def test_a_url_must_be_http():
    with pytest.raises(ValueError, match="http://"):
        HttpSchemas("file:///etc/passwd")
