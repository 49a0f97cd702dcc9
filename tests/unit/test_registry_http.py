"""Confluent's REST reads, answer by answer."""

import io
import json
from typing import Any
from wsgiref.util import setup_testing_defaults
from wsgiref.validate import validator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dovetail_relay.registry.builtin import BuiltinRegistry
from dovetail_relay.registry.database import Found, SchemaRow, VersionRow
from dovetail_relay.registry.http import registry_app

A = SchemaRow(b"a" * 16, 7, '{"type":"string"}')
B = SchemaRow(b"b" * 16, 8, '"int"')
VERSIONS = (
    VersionRow("orders-value", 1, A.fingerprint),
    VersionRow("orders-value", 3, B.fingerprint),
    VersionRow("a/ü b", 1, A.fingerprint),
)


@pytest.fixture
def registry() -> BuiltinRegistry:
    found = BuiltinRegistry()
    found.load([A, B], VERSIONS)
    return found


def ask(
    registry: BuiltinRegistry, path: str, method: str = "GET", body: bytes = b"", *, raw: bool = True
) -> tuple[int, dict[str, str], bytes]:
    """One request, through wsgiref's own checker of both sides of the interface."""
    environ: dict[str, Any] = {}
    setup_testing_defaults(environ)
    path, _, query = path.partition("?")
    environ |= {"REQUEST_METHOD": method, "QUERY_STRING": query, "wsgi.input": io.BytesIO(body)}
    environ["CONTENT_LENGTH"] = str(len(body))
    if raw:
        environ["REQUEST_URI"] = path
    else:
        environ["PATH_INFO"] = path
    started: list[Any] = []

    def start_response(status: str, headers: list[tuple[str, str]], _error: object = None) -> Any:
        started.extend((status, headers))
        return lambda _data: None

    answer = validator(registry_app(registry))(environ, start_response)
    answered = b"".join(answer)
    answer.close()  # type: ignore[attr-defined]
    return int(started[0].split()[0]), {name.lower(): value for name, value in started[1]}, answered


def said(registry: BuiltinRegistry, path: str) -> tuple[int, Any]:
    status, headers, body = ask(registry, path)
    assert headers["content-type"] == "application/vnd.schemaregistry.v1+json"
    assert int(headers["content-length"]) == len(body)
    return status, json.loads(body)


@pytest.mark.parametrize(
    ("path", "answer"),
    [
        ("/", {}),
        ("/schemas/types", ["AVRO"]),
        ("/schemas/ids/7", {"schema": '{"type":"string"}'}),
        ("/schemas/ids/7?subject=orders-value&fetchMaxId=false", {"schema": '{"type":"string"}'}),
        ("/schemas/ids/7/", {"schema": '{"type":"string"}'}),
        ("/schemas/ids/7/schema", {"type": "string"}),
        ("/schemas/ids/7/subjects", ["a/ü b", "orders-value"]),
        ("/schemas/ids/8/versions", [{"subject": "orders-value", "version": 3}]),
        ("/subjects", ["a/ü b", "orders-value"]),
        ("/subjects?subjectPrefix=ord", ["orders-value"]),
        ("/subjects/orders-value/versions", [1, 3]),
        (
            "/subjects/orders-value/versions/1",
            {"subject": "orders-value", "version": 1, "id": 7, "schema": '{"type":"string"}'},
        ),
        (
            "/subjects/orders-value/versions/latest",
            {"subject": "orders-value", "version": 3, "id": 8, "schema": '"int"'},
        ),
        ("/subjects/orders-value/versions/-1", {"subject": "orders-value", "version": 3, "id": 8, "schema": '"int"'}),
        ("/subjects/orders-value/versions/3/schema", "int"),
        ("/subjects/orders-value/versions/3/referencedby", []),
        ("/subjects/a%2F%C3%BC%20b/versions", [1]),
        ("/config", {"compatibilityLevel": "BACKWARD"}),
        ("/config/orders-value?defaultToGlobal=true", {"compatibilityLevel": "BACKWARD"}),
        ("/mode", {"mode": "READONLY"}),
    ],
)
def test_a_read_is_answered_as_confluent_does(registry: BuiltinRegistry, path: str, answer: object) -> None:
    assert said(registry, path) == (200, answer)


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/schemas/ids/9", 404, 40403),
        ("/schemas/ids/x", 404, 40403),
        ("/schemas/ids/99999999999999999999", 404, 40403),
        ("/schemas/ids/%F0%9D%9F%95", 404, 40403),
        ("/schemas/ids/9/schema", 404, 40403),
        ("/subjects/other/versions", 404, 40401),
        ("/subjects/other/versions/1", 404, 40401),
        ("/subjects/orders-value/versions/2", 404, 40402),
        ("/subjects/orders-value/versions/2/schema", 404, 40402),
        ("/subjects/orders-value/versions/0", 422, 42202),
        ("/subjects/orders-value/versions/x", 422, 42202),
        ("/config/orders-value", 404, 40408),
        ("/mode/orders-value", 404, 40409),
        ("/associations/resources/-/orders", 404, 404),
        ("/schemas", 404, 404),
        ("/schemas/ids", 404, 404),
        ("/schemas/ids/7/other", 404, 404),
        ("/subjects/orders-value", 404, 404),
        ("/subjects/orders-value/versions/1/other", 404, 404),
        ("/config/a/b", 404, 404),
        ("//", 404, 404),
    ],
)
def test_an_error_has_confluents_code(registry: BuiltinRegistry, path: str, status: int, code: int) -> None:
    got, answer = said(registry, path)
    assert (got, answer["error_code"]) == (status, code)
    assert isinstance(answer["message"], str)


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_a_write_is_refused_with_the_command_that_does_it(registry: BuiltinRegistry, method: str) -> None:
    status, headers, body = ask(registry, "/subjects/orders-value/versions", method)
    assert (status, headers["allow"]) == (405, "GET, HEAD")
    assert json.loads(body)["error_code"] == 405
    assert "dovetail.register(conn" in json.loads(body)["message"]


@pytest.mark.parametrize(
    ("subject", "schema", "status", "answer"),
    [
        ("orders-value", '{ "type" : "string" }', 200, {"subject": "orders-value", "version": 1, "id": 7}),
        ("orders-value", '"int"', 200, {"subject": "orders-value", "version": 3, "id": 8}),
        ("orders-value", '"long"', 404, {"error_code": 40403}),
        ("other", '"int"', 404, {"error_code": 40401}),
        ("orders-value", "{", 422, {"error_code": 42201}),
        ("orders-value", "[" * 100_000, 422, {"error_code": 42201}),
    ],
)
def test_a_schema_is_looked_up_in_its_subject(
    registry: BuiltinRegistry, subject: str, schema: str, status: int, answer: dict[str, Any]
) -> None:
    got, _, body = ask(registry, f"/subjects/{subject}", "POST", json.dumps({"schema": schema}).encode())
    assert (got, json.loads(body) | answer) == (status, json.loads(body))


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"schema": 1}', b"\xff", b"null"])
def test_a_look_up_without_a_schema_is_invalid(registry: BuiltinRegistry, body: bytes) -> None:
    assert ask(registry, "/subjects/orders-value", "POST", body)[0] == 422


def test_a_request_beyond_the_limit_is_refused(registry: BuiltinRegistry) -> None:
    assert ask(registry, "/subjects/orders-value", "POST", b"x" * 2_000_001)[0] == 413


def test_head_has_the_length_and_no_body(registry: BuiltinRegistry) -> None:
    status, headers, body = ask(registry, "/schemas/ids/7", "HEAD")
    assert (status, body) == (200, b"")
    assert headers["content-length"] == str(len(ask(registry, "/schemas/ids/7")[2]))


def test_a_server_that_gives_only_the_decoded_path_is_served_too(registry: BuiltinRegistry) -> None:
    registry.load([], [VersionRow("ü", 1, A.fingerprint)])
    decoded = "/subjects/ü/versions".encode().decode("latin-1")
    assert json.loads(ask(registry, decoded, raw=False)[2]) == [1]


def test_a_database_that_does_not_answer_is_a_500_so_that_the_client_asks_again() -> None:
    def silent(_known: frozenset[bytes]) -> Found:
        raise OSError("no route to postgresql://u:hunter2@db")

    registry = BuiltinRegistry(silent)
    status, answer = said(registry, "/schemas/ids/7")
    assert (status, answer["error_code"]) == (500, 50001)
    assert "hunter2" not in answer["message"]


segments = st.sampled_from(
    ["schemas", "ids", "7", "subjects", "versions", "latest", "orders-value", "config", "..", ""]
)


@given(st.lists(segments | st.text("ab%/ü\0é?#", max_size=4), max_size=7), st.text("a=&%;+", max_size=12))
def test_any_path_gets_an_answer_in_json(parts: list[str], query: str) -> None:
    registry = BuiltinRegistry()
    registry.load([A, B], VERSIONS)
    status, answer = said(registry, "/" + "/".join(part.replace("?", "") for part in parts) + "?" + query)
    assert status in {200, 404, 422}
    if status != 200:
        assert set(answer) == {"error_code", "message"}
