"""Texts as a terminal may show them."""

import re

# Control characters, and those that change the direction of the text around them. A document that holds them could
# otherwise clear the screen, set the title of the window, or show other words than it has.
CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def printable(text: str) -> str:
    r"""The text with control characters as escapes such as \x1b and \u202e, line ends and tabs too."""
    return CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode(), text)
