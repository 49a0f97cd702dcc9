"""The wire frame, against the contract's own."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dovetail_relay.encode.framing import Encoder, UnknownFingerprint, prefix
from dovetail_relay.errors import StuckMessage
from dovetail_schemas.avro import fingerprint, frame, normalise, schema_id, unframe

FINGERPRINT = b"f" * 16


@given(st.integers(0, 2**31 - 1), st.binary(max_size=50))
def test_a_frame_is_the_contracts_frame(number: int, body: bytes) -> None:
    encoder = Encoder()
    encoder.learn(FINGERPRINT, number)
    assert encoder.frame(FINGERPRINT, body) == frame(number, body)
    assert unframe(encoder.frame(FINGERPRINT, body)) == (number, body)


def test_an_encoder_may_begin_with_prefixes_that_are_known() -> None:
    assert Encoder({FINGERPRINT: prefix(7)}).frame(FINGERPRINT, b"x") == b"\0\0\0\0\x07x"


def test_the_id_of_a_schema_of_ours_fits() -> None:
    print_of = fingerprint(normalise('"string"'))
    assert prefix(schema_id(print_of))[1:] == schema_id(print_of).to_bytes(4, "big")


@pytest.mark.parametrize("number", [-1, 2**32])
def test_an_id_that_does_not_fit_is_refused(number: int) -> None:
    with pytest.raises(ValueError, match="4 bytes"):
        prefix(number)


def test_an_unknown_schema_is_a_lookup_error_that_becomes_a_stuck_message() -> None:
    with pytest.raises(LookupError) as caught:
        Encoder().frame(FINGERPRINT, b"x")
    assert isinstance(caught.value, UnknownFingerprint)
    stuck = caught.value.stuck()
    assert stuck.reason == "schema"
    assert "dovetail.register(conn" in str(stuck)


def test_a_json_row_whose_schema_came_without_its_text_is_stuck_until_it_comes() -> None:
    encoder = Encoder()
    encoder.learn(FINGERPRINT, 1)
    with pytest.raises(StuckMessage) as caught:
        encoder.value(b'"x"', FINGERPRINT, b"json", "id-1")
    assert caught.value.reason == "schema"
    encoder.learn(FINGERPRINT, 1, '"string"')
    assert encoder.value(b'"x"', FINGERPRINT, b"json", "id-1") == b"\0\0\0\0\x01\x02x"


def test_a_payload_that_does_not_fit_is_stuck_and_not_repeated() -> None:
    encoder = Encoder()
    encoder.learn(FINGERPRINT, 1, '"int"')
    with pytest.raises(StuckMessage) as caught:
        encoder.value(b'"hunter2"', FINGERPRINT, b"json", "id-1")
    assert "hunter2" not in str(caught.value)
    assert caught.value.__suppress_context__
