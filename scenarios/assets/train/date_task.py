"""Dates from 1950 to 2049 in eight written forms, to be normalised to ISO 8601."""

# ruff: noqa: SIM905 - a word list is easier to read and to extend as text

import datetime
import random

FIRST = datetime.date(1950, 1, 1).toordinal()
LAST = datetime.date(2049, 12, 31).toordinal()
MONTHS = "January February March April May June July August September October November December".split()
WEEKDAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()


def ordinal(day: int) -> str:
    """A day of the month with its English suffix: 1st, 2nd, 3rd, 4th, 11th."""
    if 10 <= day <= 20:
        return f"{day}th"
    return str(day) + {1: "st", 2: "nd", 3: "rd"}.get(day % 10, "th")


def forms(date: datetime.date) -> list[str]:
    """The eight written forms of a date; slashes are month first, dots day first, 'YY means 1950 to 2049."""
    day, month, year = date.day, MONTHS[date.month - 1], date.year
    return [
        f"{month} {day}, {year}",
        f"{day} {month} {year}",
        f"the {ordinal(day)} of {month} {year}",
        f"{month[:3]} {day}, {year}",
        f"{WEEKDAYS[date.weekday()]}, {day} {month} {year}",
        f"{date.month:02d}/{day:02d}/{year}",
        f"{day}.{date.month}.{year}",
        f"{day} {month[:3]} '{year % 100:02d}",
    ]


def draw(rng: random.Random) -> tuple[str, str]:
    """One prompt and its reference."""
    date = datetime.date.fromordinal(rng.randint(FIRST, LAST))
    return f"date: {rng.choice(forms(date))}", date.isoformat()
