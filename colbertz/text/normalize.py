"""The form in which texts are compared with each other."""


def normalized(text: str) -> str:
    """The text with case folded, runs of white space replaced by one space, and none at the ends."""
    return " ".join(text.casefold().split())
