"""Books: what nobody needs is forgotten, what somebody may still charge is not."""

from __future__ import annotations

from otelbudget.ledger import ledger
from otelbudget.model.amounts import RESOURCES, TOKENS
from otelbudget.model.quota import Quota
from otelbudget.stores.books import Book, Where
from otelbudget.stores.memory import MemoryStore

NOW_S = 1_700_000_000.0
QUOTA = Quota(tokens=10)
ONE_TOKEN = [int(i == TOKENS) for i in range(len(RESOURCES))]


def test_visitors_who_spend_nothing_do_not_fill_the_memory() -> None:
    books = MemoryStore(clock_s=lambda: NOW_S).books
    for i in range(5_000):
        books.book(Where("user", "default", "acme", f"user-{i}"), QUOTA, NOW_S).current(NOW_S)
    assert len(list(books)) < 1_100


def test_a_book_that_was_opened_while_others_are_forgotten_keeps_what_is_charged_to_it() -> None:
    store = MemoryStore(clock_s=lambda: NOW_S)
    for i in range(5_000):
        book = store.books.book(Where("tenant", "default", f"tenant-{i}"), QUOTA, NOW_S)
        store.charge([book.current(NOW_S)], ONE_TOKEN)
        del book
    assert sum(book.current(NOW_S).used[TOKENS] for book in store.books) == 5_000


def test_a_book_that_a_run_in_progress_refers_to_is_not_forgotten_before_its_first_charge() -> None:
    store = MemoryStore(clock_s=lambda: NOW_S)
    mine = Where("tenant", "default", "acme")
    book = store.books.book(mine, QUOTA, NOW_S)
    for i in range(5_000):
        store.books.book(Where("user", "default", "acme", f"user-{i}"), QUOTA, NOW_S)
    store.charge([book.current(NOW_S)], ONE_TOKEN)
    del book
    assert store.books.book(mine, QUOTA, NOW_S).current(NOW_S).used[TOKENS] == 1


def test_a_quota_per_minute_keeps_two_hours_of_ended_windows() -> None:
    book = Book(Where("tenant", "default", "acme"), Quota(tokens=10, per="minute"))
    for minute in range(300):
        ledger.charge((book.current(minute * 60.0),), [5 * one for one in ONE_TOKEN])
    assert book.current(200 * 60.0).used[TOKENS] == 5
    assert book.current(100 * 60.0).used[TOKENS] == 0
