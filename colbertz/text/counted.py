"""Numbers of things in messages."""


def counted(count: int, noun: str, plural: str | None = None) -> str:
    """A count and its noun in the right number: "1 document", "2,048 documents"; `plural` if it is not noun + s."""
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"
