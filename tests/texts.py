"""Real text for the tests: what people type and paste, in many scripts, with the cases that break tokenisers.

Written for this project. `ORDINARY` also trains the tiny tokenisers of `checkpoints.py`, so it must stay as it is: the
vocabularies, and with them every random checkpoint, are made from it.
"""

import gzip
import json
from pathlib import Path

SHARED_DATA = Path(__file__).parents[2] / "shared/data"

ORDINARY = [
    "How does late interaction compare every query token with every document token?",
    "The lighthouse keeper wrote down the weather twice a day, at six in the morning and at six in the evening.",
    "What is the capital of France? Paris is the capital of France, and has been (with interruptions) since 508.",
    "Heat the oil, add the onions; stir until golden - about 10 minutes - then lower the flame.",
    "def parse_date(text: str) -> datetime:\n    return datetime.strptime(text.strip(), '%Y-%m-%d')",
    "The quick brown fox jumps over the lazy dog. THE QUICK BROWN FOX JUMPS OVER THE LAZY DOG!",
    "Der Fluß trat nach dem Regen über die Ufer; die Straße nach Görlitz blieb drei Tage gesperrt.",
    "L'été dernier, nous avons traversé la forêt à vélo, malgré l'orage qui menaçait dès l'aube.",
    "El niño preguntó cuántas estrellas hay en el cielo, y su abuela contestó: «más que granos de arena».",
    "Поезд прибывает на вторую платформу в семь часов вечера.",
    "图书馆在星期天早上九点开门。请不要在阅览室里吃东西。",
    "東京の夏はとても暑いので、水をたくさん飲んでください。",
    "도서관은 아침 아홉 시에 문을 엽니다.",
    "يفتح المتحف أبوابه في التاسعة صباحا كل يوم ما عدا الاثنين.",
    "हर सुबह वह नदी के किनारे टहलने जाती है।",
    "Photosynthesis turns carbon dioxide and water into sugar and oxygen with the energy of sunlight.",
    "SELECT name, COUNT(*) FROM orders WHERE total >= 99.95 GROUP BY name ORDER BY 2 DESC LIMIT 10;",
    "In 1928 Alexander Fleming noticed that a mould had killed the bacteria around it on a forgotten plate.",
    "for i, row in enumerate(rows):\n\tif row['id'] in seen:\n\t\tcontinue  # already counted\n\tseen.add(row['id'])",
    "Retrieval systems rank documents; a ranking is only as good as the relevance judgements it is measured on.",
]

ODD = [
    "",
    " ",
    "\n\t ",
    "?!...,;:--'\"()[]{}<>/\\|@#$%^&*_+=~`",
    ".",
    "😀 👩‍👩‍👧‍👦 🇪🇺 ok 👍🏽",
    "  leading and trailing blanks   ",
    "two\nlines\r\nand a third\n",
    "a",
    "naïve café — “quoted” … ½ ﬁ ﬂ Å Ω",
    "e\u0301 against \u00e9, zero\u200bwidth and no\u00a0break",
    "http://example.org/a?b=c&d=%20e#f and mail@example.org",
    "supercalifragilisticexpialidocious" * 5,
    "[MASK] and [SEP] and [CLS] and [PAD] and [UNK] written out",
    "[Q] and [D] and [Q] [unused0] written out, [unused1] too",
    "    indented    by    four    ",
    "\ufeffbyte order mark, control \x07 character, null \x00 and a lone tag \U000e0041",
    "A" * 300,
]

_WORDS = [word for text in ORDINARY for word in text.split()]
TEN_THOUSAND_WORDS = " ".join((_WORDS * (10_000 // len(_WORDS) + 1))[:10_000])

REAL = [*ORDINARY, *ODD]


def shared_documents(count: int, collection: str = "squad") -> list[str]:
    """The first documents of a collection that only our own machines have; an empty list elsewhere."""
    path = SHARED_DATA / collection / "corpus.jsonl.gz"
    if not path.exists():
        return []
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line)["text"] for _, line in zip(range(count), lines)]
