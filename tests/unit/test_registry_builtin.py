"""The registry's memory: one snapshot for all readers, and few questions to the database."""

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dovetail_relay.registry.builtin import BuiltinRegistry, RegistryUnavailable
from dovetail_relay.registry.database import Found, SchemaRow, VersionRow

A = SchemaRow(b"a" * 16, 1, '"string"')
B = SchemaRow(b"b" * 16, 2, '"int"')


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Database:
    """A look-up that counts, and may be silent."""

    def __init__(self) -> None:
        self.asked: list[frozenset[bytes]] = []
        self.schemas: tuple[SchemaRow, ...] = ()
        self.versions: tuple[VersionRow, ...] = ()
        self.silent = False

    def __call__(self, known: frozenset[bytes]) -> Found:
        self.asked.append(known)
        if self.silent:
            raise OSError("no route")
        return Found(self.schemas, self.versions)


def test_a_schema_is_found_by_fingerprint_and_by_id() -> None:
    registry = BuiltinRegistry()
    assert registry.load([A, B, A]) == (A, B)
    assert (registry.known(A.fingerprint), registry.id_of(B.fingerprint)) == (A, 2)
    assert registry.schema(2) == B
    assert registry.ids() == {A.fingerprint: 1, B.fingerprint: 2}
    assert (registry.known(b"x"), registry.id_of(b"x"), registry.schema(99)) == (None, None, None)


def test_loading_says_what_is_new_and_forgets_no_schema() -> None:
    registry = BuiltinRegistry()
    registry.load([A], [VersionRow("s", 1, A.fingerprint)])
    assert registry.load([A, B], []) == (B,)
    assert registry.schema(1) == A
    assert registry.subjects() == []


def test_versions_are_taken_as_they_are_and_left_alone_where_none_are_given() -> None:
    registry = BuiltinRegistry()
    registry.load([A, B], [VersionRow("s", 2, B.fingerprint), VersionRow("s", 1, A.fingerprint)])
    registry.load([])
    assert list(registry.versions("s").items()) == [(1, A), (2, B)]
    assert registry.versions("other") == {}


def test_a_version_whose_schema_is_not_known_is_left_out() -> None:
    registry = BuiltinRegistry()
    registry.load([A], [VersionRow("s", 1, A.fingerprint), VersionRow("s", 2, b"?" * 16)])
    assert list(registry.versions("s")) == [1]


def test_the_users_of_a_schema_are_its_subjects_and_versions() -> None:
    registry = BuiltinRegistry()
    registry.load([A], [VersionRow("t", 1, A.fingerprint), VersionRow("s", 3, A.fingerprint)])
    assert registry.uses(1) == [("s", 3), ("t", 1)]


def test_an_id_that_is_known_never_asks_the_database() -> None:
    database = Database()
    registry = BuiltinRegistry(database)
    registry.load([A])
    registry.schema(1)
    registry.known(b"x")
    assert database.asked == []


def test_a_miss_asks_for_what_is_not_known_and_finds_it() -> None:
    database = Database()
    database.schemas = (B,)
    registry = BuiltinRegistry(database)
    registry.load([A])
    assert registry.schema(2) == B
    assert database.asked == [frozenset({A.fingerprint})]


def test_misses_within_a_second_ask_once_whatever_they_ask_for() -> None:
    clock, database = Clock(), Database()
    registry = BuiltinRegistry(database, clock=clock)
    assert [registry.schema(number) for number in range(100)] == [None] * 100
    clock.now = 0.99
    assert registry.subjects() == []
    assert len(database.asked) == 1
    clock.now = 1.0
    assert registry.schema(7) is None
    assert len(database.asked) == 2


def test_subjects_are_fresh_to_a_second() -> None:
    clock, database = Clock(), Database()
    registry = BuiltinRegistry(database, clock=clock)
    assert registry.subjects() == []
    database.schemas, database.versions = (A,), (VersionRow("s", 1, A.fingerprint),)
    assert registry.subjects() == []
    clock.now = 1.0
    assert registry.subjects() == ["s"]


def test_a_silent_database_is_neither_yes_nor_no_and_what_is_known_is_still_told() -> None:
    clock, database = Clock(), Database()
    registry = BuiltinRegistry(database, clock=clock)
    registry.load([A], [VersionRow("s", 1, A.fingerprint)])
    database.silent = True
    with pytest.raises(RegistryUnavailable):
        registry.schema(2)
    with pytest.raises(RegistryUnavailable):
        registry.versions("t")
    assert len(database.asked) == 1
    assert registry.schema(1) == A
    assert registry.subjects() == ["s"]
    assert list(registry.versions("s")) == [1]
    database.silent = False
    clock.now = 1.0
    assert registry.schema(2) is None


def test_readers_that_miss_together_make_one_look_up_and_all_get_its_answer() -> None:
    inside, released = threading.Event(), threading.Event()
    asked: list[int] = []

    def slow(_known: frozenset[bytes]) -> Found:
        asked.append(1)
        inside.set()
        assert released.wait(10)
        return Found((A,), ())

    registry = BuiltinRegistry(slow)
    found: list[SchemaRow | None] = []
    readers = [threading.Thread(target=lambda: found.append(registry.schema(1))) for _ in range(8)]
    for reader in readers:
        reader.start()
    assert inside.wait(10)
    released.set()
    for reader in readers:
        reader.join(10)
    assert found == [A] * 8
    assert len(asked) == 1


def test_a_reader_sees_the_versions_before_or_after_a_change_and_never_between() -> None:
    registry = BuiltinRegistry()
    before = [VersionRow("s", 1, A.fingerprint), VersionRow("t", 1, A.fingerprint)]
    after = [VersionRow("s", 1, B.fingerprint), VersionRow("t", 1, B.fingerprint)]
    registry.load([A, B], before)
    done = threading.Event()
    seen: set[tuple[int, int]] = set()

    def look() -> None:
        while not done.is_set():
            seen.add((len(registry.uses(1)), 2))

    reader = threading.Thread(target=look)
    reader.start()
    for _ in range(300):
        registry.load([], after)
        registry.load([], before)
    done.set()
    reader.join(10)
    assert seen <= {(0, 2), (2, 2)}


@given(st.lists(st.lists(st.sampled_from(range(6)), max_size=4), max_size=6))
def test_any_order_of_loads_ends_in_the_union(loads: list[list[int]]) -> None:
    registry = BuiltinRegistry()
    new: list[SchemaRow] = []
    for numbers in loads:
        new += registry.load([SchemaRow(bytes([n]) * 16, n, "") for n in numbers])
    wanted = {n for numbers in loads for n in numbers}
    assert {row.schema_id for row in new} == wanted
    assert len(new) == len(wanted)
    assert set(registry.ids().values()) == wanted
