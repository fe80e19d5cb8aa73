"""Sentiment sentences with a label that the grammar fixes: positive, negative or neutral.

The verdict of a sentence is that of its main clause. A clause has a polarity (its predicate's), which a `not` inside
and a denial around it each turn over; a neutral clause stays neutral. "X, but Y" and "although X, Y" are judged by Y,
so counting good and bad words is not enough.
"""

# ruff: noqa: SIM905 - a word list is easier to read and to extend as text

import random
import re

LABELS = {1: "positive", -1: "negative", 0: "neutral"}
SUBJECTS = (
    "the soup|the service|the hotel|the film|the book|the waiter|the driver|the phone|the camera|the room|the coffee|"
    "the concert|the teacher|the lesson|the garden|the museum|the story|the meeting|the guide|the shop|the music|"
    "the breakfast|the flight|the train|the actor|the painting|the software|the manual|the screen|the keyboard|the bed|"
    "the view|the doctor|the clinic|the bread|the market|the ending|the tour|the menu|the singer"
).split("|")
GOOD = (
    "good|great|excellent|wonderful|lovely|pleasant|superb|brilliant|friendly|reliable|charming|helpful|delightful|"
    "impressive|perfect|fantastic"
).split("|")
BAD = (
    "bad|awful|terrible|horrible|poor|boring|rude|dirty|broken|disappointing|annoying|useless|dreadful|unpleasant|"
    "sloppy|clumsy"
).split("|")
PLAIN = (
    "new|old|grey|small|large|local|square|short|long|near the river|in the city|on the list|open on Sunday|"
    "made of wood|from the north|next to the bank"
).split("|")
ADVERBS = ("", "", "", "really ", "quite ", "rather ", "clearly ", "simply ")
OPENERS = ("", "", "", "in my view ", "to be honest ", "this time ", "as far as I can tell ", "in the end ")
DENIALS = ("it is not true that ", "I do not agree that ", "nobody would say that ", "I doubt that ")
CLOSERS = ("", "", "", " this week", " on Friday", " as usual", " once again")


def _clause(rng: random.Random, polarity: int | None = None) -> tuple[str, int]:
    """One clause and its polarity: asked for, or drawn when None."""
    wanted = rng.choice((1, -1, 0)) if polarity is None else polarity
    negated = rng.random() < 0.4
    predicate_polarity = -wanted if negated else wanted
    predicate = rng.choice({1: GOOD, -1: BAD, 0: PLAIN}[predicate_polarity])
    if predicate_polarity != 0:
        predicate = rng.choice(ADVERBS) + predicate
    verb = rng.choice(("was not ", "is not ", "was never ") if negated else ("was ", "is ", "was always "))
    return f"{rng.choice(SUBJECTS)} {verb}{predicate}", wanted


def _judged(rng: random.Random) -> tuple[str, int]:
    """A clause, in a quarter of the cases inside a denial that turns its polarity over."""
    text, polarity = _clause(rng)
    if rng.random() < 0.25:
        return rng.choice(DENIALS) + text, -polarity
    return text, polarity


def draw(rng: random.Random) -> tuple[str, str]:
    """One prompt and its reference."""
    main, polarity = _judged(rng)
    shape = rng.randrange(4)
    if shape == 0:
        text = rng.choice(OPENERS) + main
    elif shape == 1:
        text = f"{_clause(rng)[0]}, but {main}"
    elif shape == 2:
        text = f"although {_clause(rng)[0]}, {main}"
    else:
        text = f"{main}, although {_clause(rng)[0]}"
    return f"label: {text}{rng.choice(CLOSERS)}.", LABELS[polarity]


def clause_labels(prompt: str) -> list[str]:
    """The label of each part between commas, read back from the words: what the sentence's own label is chosen from."""
    polarity = dict.fromkeys(GOOD, 1) | dict.fromkeys(BAD, -1)
    labels = []
    for part in prompt.removeprefix("label: ").rstrip(".").split(", "):
        found = [polarity[word] for word in part.split() if word in polarity]
        denials = sum(denial in f"{part} " for denial in DENIALS)
        negations = len(re.findall(r"\b(?:was|is) (?:not|never) (?!true that)", part))
        labels.append(LABELS[(found[-1] if found else 0) * (-1) ** (denials + negations)])
    return labels
