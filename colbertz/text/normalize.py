"""The form in which texts are compared with each other."""


def normalized(text: str) -> str:
    """The text without case and with single spaces."""
    return " ".join(text.casefold().split())
