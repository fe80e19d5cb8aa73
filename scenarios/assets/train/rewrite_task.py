"""First-person notes full of contractions and abbreviations, to be rewritten formally about `she`.

A template carries its own answer: `[a|b]` reads a in the note and b in the rewriting, `{slot}` draws a filler whose two
readings may differ too (`Dr. Lee|Doctor Lee`). Fillers are not repeated inside one note.
"""

# ruff: noqa: SIM905 - a word list is easier to read and to extend as text

import random
import re

TITLES = "Dr.|Doctor Prof.|Professor Capt.|Captain Sgt.|Sergeant Gov.|Governor Sen.|Senator Lt.|Lieutenant".split()
SURNAMES = (
    "Lee Moss Grant Stone Burke Nolan Price Hayes Frost Palmer Webb Quinn Reyes Silva Tanaka Novak Okafor Weber Rossi "
    "Larsen Haddad Kumar Dubois Ivanov Berg Costa Doyle Ellis Fischer Gupta Holt Jensen"
).split()
FRIENDS = (
    "Anna Ben Clara David Elena Frank Grace Hugo Ines Jonas Karen Liam Maria Nora Oscar Paula Ruth Simon Tara Victor "
    "Wendy Yusuf Zoe Lena"
).split()
DAYS = "Mon.|Monday Tue.|Tuesday Wed.|Wednesday Thu.|Thursday Fri.|Friday Sat.|Saturday Sun.|Sunday".split()
MONTHS = "Jan.|January Feb.|February Aug.|August Sep.|September Oct.|October Nov.|November Dec.|December".split()
ROADS = [
    f"{name} {kind}"
    for name in "Park Mill Church River Market Bridge Garden Castle Forest Harbor".split()
    for kind in ("St.|Street", "Ave.|Avenue", "Rd.|Road", "Blvd.|Boulevard")
]
PLACES = (
    "station library airport museum harbor bakery office school theater stadium market clinic hotel garage church bank "
    "cafe factory garden gallery"
).split()
THINGS = (
    "report laptop ticket map letter camera bicycle contract package notebook guitar umbrella passport printer jacket "
    "lamp carpet mirror suitcase phone table painting recipe invoice budget schedule poster bottle kettle drill"
).split()
QUALITIES = (
    "old new heavy cheap blue green broken small empty wooden expensive yellow round quiet bright strange modern "
    "narrow dusty clean"
).split()
TEAMS = [f"{name} dept.|{name} department" for name in "sales legal finance travel design safety press music".split()]
HABITS = (
    "walk|walks drive|drives cycle|cycles travel|travels hurry|hurries return|returns move|moves run|runs go|goes "
    "rush|rushes"
).split()
ACTIONS = "clean paint repair sell return inspect pack borrow hide measure order weigh photograph replace".split()
SPANS = [
    f"{count} {unit}"
    for count in "two three five six ten twelve twenty thirty forty".split()
    for unit in ("min.|minutes", "hrs.|hours", "wks.|weeks", "yrs.|years")
]
LENGTHS = [
    f"{count} {unit}"
    for count in "two three five six ten twelve twenty thirty forty".split()
    for unit in ("km|kilometers", "mi.|miles", "ft.|feet", "yd.|yards")
]
SLOTS: dict[str, list[str]] = {
    "person": [f"{a} {name}|{b} {name}" for a, b in (title.split("|") for title in TITLES) for name in SURNAMES],
    "friend": FRIENDS,
    "day": DAYS,
    "month": MONTHS,
    "road": ROADS,
    "place": PLACES,
    "thing": THINGS,
    "quality": QUALITIES,
    "team": TEAMS,
    "habit": HABITS,
    "action": ACTIONS,
    "span": SPANS,
    "length": LENGTHS,
}
TEMPLATES = (
    "[I can't|She cannot] find [my|her] {quality} {thing}, so [I'll|she will] ask {friend} at the {place}.",
    "[I'm|She is] meeting {person} on {day} [w/|with] {friend} to talk about the {thing}.",
    "[I don't|She does not] think that {person} will {action} the {thing} before {month} at all.",
    "[I've|She has] lived near {road} for [approx.|approximately] {span} and [I|she] still [get|gets] lost.",
    "[I|She] {habit} to the {place} every {day} morning because the {team} is there.",
    "[I'd|She would] rather {action} [my|her] {thing} than wait {span} for {friend}.",
    "[I won't|She will not] {action} the {quality} {thing} [w/o|without] [info|information] from the {team}.",
    "[I wasn't|She was not] at the {place} when {person} tried to {action} [my|her] {quality} {thing}.",
    "[I haven't|She has not] seen {friend} since {month} but [it's|it is] only {length} to {road} by bus.",
    "[I|She] usually {habit} [approx.|approximately] {length} along {road} [w/|with] {friend} and {person}.",
    "[I couldn't|She could not] {action} the {thing}, so {friend} told [me|her] to call the {team}.",
    "[My|Her] [appt.|appointment] [w/|with] {person} [isn't|is not] on {day}, [it's|it is] in {month}.",
    "{friend} [doesn't|does not] know that [I|she] {habit} to the {place} [w/o|without] [my|her] {thing}.",
    "{person} [can't|cannot] give [me|her] the {thing} until {day}, so [I'm|she is] staying at the {place}.",
    "[There's|There is] a {quality} {thing} at the {place} that [I|she] [want|wants] to {action} on {day}.",
    "The {team} [wasn't|was not] open, so [I've|she has] left [my|her] {thing} [w/|with] {friend} on {road}.",
    "[That's|That is] why [I|she] [need|needs] the {quality} {thing} from the {place} within {span}.",
    "{friend} and {person} [aren't|are not] sure if [I'll|she will] {action} the {thing} in {month}.",
    "[I shouldn't|She should not] {action} [my|her] {thing} at the {place}, it takes {span} or more.",
    "[I|She] [live|lives] {length} from the {place}, so [I|she] {habit} past {road} [w/|with] [my|her] {thing}.",
)
_SLOT = re.compile(r"\{(\w+)\}")
PAIR = re.compile(r"\[([^|\]]*)\|([^\]]*)\]")


def _both(text: str) -> tuple[str, str]:
    """The two readings of one filler, word by word: `Dr. Lee|Doctor Lee` or `Park St.|Street`."""
    if "|" not in text:
        return text, text
    left, right = text.split("|")
    if len(left.split()) > len(right.split()):  # `Park St.|Street`: the common start is written once
        right = " ".join([*left.split()[: len(left.split()) - len(right.split())], right])
    return left, right


def fill(template: str, rng: random.Random, used: set[str]) -> tuple[str, str]:
    """The note and the rewriting of one template; fillers taken are added to `used`."""

    def slot(match: re.Match[str]) -> str:
        choices = [filler for filler in SLOTS[match[1]] if filler not in used]
        filler = rng.choice(choices or SLOTS[match[1]])
        used.add(filler)
        left, right = _both(filler)
        return f"[{left}|{right}]"

    marked = _SLOT.sub(slot, template)
    return PAIR.sub(r"\1", marked), PAIR.sub(r"\2", marked)


def draw(rng: random.Random, sentences: int | None = None) -> tuple[str, str]:
    """One prompt and its reference: three or four sentences, or as many as asked for, no template twice."""
    used: set[str] = set()
    count = rng.choice((3, 3, 4)) if sentences is None else sentences
    pairs = [fill(template, rng, used) for template in rng.sample(TEMPLATES, count)]
    note = " ".join(left for left, _ in pairs).replace("..", ".")  # an abbreviation's dot also ends its sentence
    return f"rewrite: {note}", " ".join(right for _, right in pairs)
