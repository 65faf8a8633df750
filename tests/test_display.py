"""What a hit looks like."""

from colbertz.display import format_explanation, format_hit
from colbertz.index import Hit

CODE = '''class Dates:
    zone = None

    def __init__(self):
        self.cache = {}

    def parseDate(self, text):
        """Dates are hard."""
        parsed = strptime(text, self.formats)
        return parsed
'''


def lines(hit: Hit, query: str, **options: object) -> list[str]:
    return format_hit(1, hit, query, **options).splitlines()  # type: ignore[arg-type]


def test_the_place_is_what_the_metadata_knows_best() -> None:
    assert lines(Hit("7", 1.5), "x")[0] == "  1.   1.50  7"
    assert lines(Hit("7", 1.5, metadata={"title": "Seven"}), "x")[0].endswith("7  Seven")
    assert lines(Hit("7", 1.5, metadata={"path": "a/b.py"}), "x")[0].endswith("  a/b.py")
    assert lines(Hit("7", 1.5, metadata={"path": "a/b.py", "line": 12}), "x")[0].endswith("  a/b.py:12")


def test_the_snippet_is_where_the_words_are_and_keeps_its_indentation() -> None:
    assert lines(Hit("7", 1.5, CODE), "parse a date")[1:] == [
        "         def parseDate(self, text):",
        '             """Dates are hard."""',
        "             parsed = strptime(text, self.formats)",
        "             return parsed",
    ]


def test_without_any_of_the_words_the_snippet_is_the_beginning() -> None:
    assert lines(Hit("7", 1.5, CODE), "zebra")[1].strip() == "class Dates:"


def test_other_forms_of_a_word_and_parts_of_identifiers_are_highlighted() -> None:
    text = "\n".join(lines(Hit("7", 1.5, CODE), "parsing of the date", color=True))
    for word in ("parse", "Date", "Dates", "parsed"):
        assert f"\x1b[1;31m{word}\x1b[0m" in text
    assert "\x1b[1;31mDates\x1b[0m are hard" in text, "a stopword is not highlighted"


def test_long_lines_are_wrapped() -> None:
    text = "word " * 100 + "needle " + "word " * 100
    shown = lines(Hit("7", 1.5, text), "needle", width=60)
    assert len(shown) == 5
    assert all(len(line) <= 60 for line in shown)
    assert any("needle" in line for line in shown)


def test_no_text_is_only_a_headline() -> None:
    assert len(lines(Hit("7", 1.5), "x")) == 1


def test_words_of_scripts_without_blanks_are_highlighted() -> None:
    text = "\n".join(lines(Hit("7", 1.5, "夜の東京タワーは赤い。"), "東京タワー", color=True))
    assert "夜の\x1b[1;31m東京タワー\x1b[0mは赤い。" in text
    assert "\x1b[1;31m京\x1b[0m" in "\n".join(lines(Hit("7", 1.5, "東京"), "京", color=True))
    assert lines(Hit("7", 1.5, "何もない\n" * 9 + "大阪の猫"), "大阪")[-1].strip() == "大阪の猫"
    assert lines(Hit("7", 1.5, "ﾀﾜｰ"), "東")[1].strip() == "ﾀﾜｰ", "what is not highlighted stays as it is"


def test_control_characters_are_shown_as_escapes() -> None:
    hit = Hit("7\x1b]0;owned\x07", 1.5, "clear \x1b[2J\tscreen \x9b31m \u202erev", {"title": "a\nb\rc"})
    shown = lines(hit, "screen")
    assert shown[0].endswith(r"7\x1b]0;owned\x07  a\nb\rc")
    assert shown[1].split() == ["clear", r"\x1b[2J", "screen", r"\x9b31m", r"\u202erev"]
    assert len(shown) == 2
    heatmap = {
        "query": "\x1b[2Jfox",
        "text": "a\x07fox \x1b[2J",
        "other": 1.0,
        "document_words": [[0, 5]],
        "heat": [0.5],
    }
    heatmap["query_words"] = [{"start": 0, "end": 7, "score": 0.5, "met": "a\x07fox"}]
    plain, colored = (format_explanation(heatmap, color=color) for color in (False, True))
    assert "\x1b" not in plain and "\x07" not in plain
    assert "\x1b[2J" not in colored and "\x07" not in colored and "a fox" in colored
