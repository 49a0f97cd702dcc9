"""The demo's books notice every kind of fault that is planted in them."""

from dataclasses import replace

import pytest

from dovetail_local.demo.books import Evidence, Order, Record, balance

ORDERS = {
    f"{customer}-{number}": Order(customer, number, product)
    for customer in ("anna", "bert")
    for number, product in ((1, "hat"), (2, "coat"), (3, "hat"))
}


def _record(event_id, partition=0):
    order = ORDERS[event_id]
    return Record(event_id, order.customer, partition, order)


RECORDS = tuple(_record(event_id, partition=event_id.startswith("bert")) for event_id in ORDERS)
TRUTH = Evidence(committed=ORDERS, rolled_back={"undone"}, records=RECORDS, gone={"hat": 4, "coat": 2}, relay_kills=3)


def _with_records(*records):
    return balance(replace(TRUTH, records=records))


def _faults(books):
    counts = books.counts()
    return {name: counts[name] for name in ("lost", "duplicated", "phantom", "out_of_order") if counts[name]}


def test_true_books_balance_and_say_what_happened():
    books = balance(TRUTH)
    assert books.balanced
    assert books.counts() == {
        "committed": 6,
        "rolled_back": 1,
        "published": 6,
        "effects": 6,
        "lost": 0,
        "duplicated": 0,
        "phantom": 0,
        "out_of_order": 0,
        "relay_kills": 3,
    }


def test_customers_may_be_read_in_any_mixture():
    first, second = RECORDS[:3], RECORDS[3:]
    mixed = [record for pair in zip(first, second, strict=True) for record in pair]
    assert _with_records(*mixed).balanced


def test_an_empty_shop_balances():
    assert balance(Evidence(committed={}, rolled_back=(), records=(), gone={"hat": 0})).balanced


@pytest.mark.parametrize("missing", range(len(RECORDS)))
def test_a_lost_event_is_counted(missing):
    books = _with_records(*RECORDS[:missing], *RECORDS[missing + 1 :])
    assert not books.balanced
    assert _faults(books) == {"lost": 1}
    assert books.published == 5


@pytest.mark.parametrize("again", range(len(RECORDS)))
def test_a_duplicate_is_counted_and_is_no_disorder(again):
    books = _with_records(*RECORDS, RECORDS[again])
    assert not books.balanced
    assert _faults(books) == {"duplicated": 1}


def test_an_event_that_never_committed_is_a_phantom():
    books = _with_records(*RECORDS, Record("undone", "anna", 0, Order("anna", 4, "hat")))
    assert not books.balanced
    assert _faults(books) == {"phantom": 1}


def test_an_event_that_was_rolled_back_is_a_phantom_even_if_a_row_of_it_exists():
    books = balance(replace(TRUTH, rolled_back={"anna-2"}))
    assert not books.balanced
    assert _faults(books) == {"phantom": 1}


def test_an_event_with_another_content_is_lost_and_a_phantom():
    changed = RECORDS[1]._replace(order=Order("anna", 2, "shoe"))
    books = _with_records(RECORDS[0], changed, *RECORDS[2:])
    assert not books.balanced
    assert _faults(books) == {"lost": 1, "phantom": 1}


def test_two_events_of_one_key_in_the_wrong_order_are_counted():
    books = _with_records(RECORDS[1], RECORDS[0], *RECORDS[2:])
    assert not books.balanced
    assert _faults(books) == {"out_of_order": 1}


def test_a_key_in_two_partitions_has_no_order():
    books = _with_records(*RECORDS[:2], RECORDS[2]._replace(partition=5), *RECORDS[3:])
    assert not books.balanced
    assert _faults(books) == {"out_of_order": 1}


def test_a_record_under_another_key_than_its_content_says_is_out_of_order():
    books = _with_records(*RECORDS[:5], RECORDS[5]._replace(key="carl"))
    assert not books.balanced
    assert _faults(books) == {"out_of_order": 1}


def test_a_lost_event_and_a_phantom_do_not_cancel_out():
    books = _with_records(*RECORDS[1:], Record("stranger", "anna", 0, Order("anna", 9, "hat")))
    assert books.published == books.committed
    assert not books.balanced
    assert _faults(books) == {"lost": 1, "phantom": 1}


@pytest.mark.parametrize("gone", [{"hat": 5, "coat": 2}, {"hat": 3, "coat": 2}, {"hat": 4}, {}])
def test_an_effect_too_many_or_too_few_is_noticed(gone):
    books = balance(replace(TRUTH, gone=gone))
    assert not books.balanced
    assert books.effects != books.committed


def test_an_effect_too_many_and_one_too_few_do_not_cancel_out():
    books = balance(replace(TRUTH, gone={"hat": 5, "coat": 1}))
    assert books.effects == books.committed
    assert not books.balanced
    assert len(books.complaints) == 2


def test_a_complaint_names_the_count_that_is_wrong():
    assert _with_records(*RECORDS[1:]).complaints == ("lost is 1, not 0", "published is 5, committed is 6")
