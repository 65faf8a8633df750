"""Numbers of things in messages."""

from colbertz.text.counted import counted


def test_one_is_singular_and_thousands_are_grouped() -> None:
    assert [counted(count, "document") for count in (0, 1, 2048)] == ["0 documents", "1 document", "2,048 documents"]
    assert [counted(count, "query", "queries") for count in (1, 2)] == ["1 query", "2 queries"]
