"""Numbers of three to seven digits, to be spelled out in English words."""

# ruff: noqa: SIM905 - a word list is easier to read and to extend as text

import random

SMALL = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
).split()
TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()


def below_thousand(number: int) -> str:
    """Words of 1 to 999, American style: no `and`, tens and units joined by a hyphen."""
    words = []
    if number >= 100:
        words += [SMALL[number // 100], "hundred"]
    rest = number % 100
    if rest >= 20:
        words.append(TENS[rest // 10 - 2] + (f"-{SMALL[rest % 10]}" if rest % 10 else ""))
    elif rest:
        words.append(SMALL[rest])
    return " ".join(words)


def words_of(number: int) -> str:
    """Words of 1 to 999 999 999."""
    parts = []
    for size, name in ((1_000_000, " million"), (1_000, " thousand"), (1, "")):
        group = number // size % 1000
        if group:
            parts.append(below_thousand(group) + name)
    return " ".join(parts)


def draw(rng: random.Random) -> tuple[str, str]:
    """One prompt and its reference; half of the numbers carry thousands separators, zeros are over-represented."""
    digits = [rng.choice("123456789")] + [
        "0" if rng.random() < 0.1 else rng.choice("0123456789") for _ in range(rng.choice((2, 3, 4, 4, 5, 5, 6, 6)))
    ]
    number = int("".join(digits))
    return f"spell: {number:,}" if rng.random() < 0.5 else f"spell: {number}", words_of(number)
