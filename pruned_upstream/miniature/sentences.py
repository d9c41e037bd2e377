"""Small grammars of English: what the voices say where the words do not matter to the task."""

from __future__ import annotations

import re
from random import Random

_PEOPLE = (
    "farmer teacher doctor sailor baker painter singer driver lawyer judge nurse soldier captain brother "
    "sister mother father daughter neighbour stranger thief poet student gardener tailor"
).split()
_ANIMALS = (
    "dog cat bird horse cow sheep goat fox wolf bear mouse rabbit fish frog duck goose lion tiger monkey whale"
).split()
_THINGS = (
    "house boat bridge table window letter book basket candle mirror bottle jacket coat hat shoe ring clock "
    "lamp wheel rope ladder hammer knife spoon bowl cup bread cheese apple orange garden flower tree stone "
    "picture song message box bag key chair bed violin engine television measure"
).split()
_PLACES = (
    "village river forest mountain valley harbour market kitchen church school station island castle beach "
    "field city street bedroom cellar garage"
).split()
_QUALITIES = (
    "old young small huge quiet noisy happy sad angry gentle clever foolish rich poor tall short red blue "
    "green yellow brown black white bright dark cold warm heavy light strange broken golden silver wooden "
    "empty rusty thick thin smooth rough"
).split()
_DEEDS = (
    "found lost carried painted sold bought watched followed opened closed broke fixed washed hid showed "
    "pulled pushed lifted dropped threw caught liked wanted remembered forgot touched measured drew chose "
    "shared"
).split()
_MOVES = "walked ran swam climbed travelled hurried wandered sailed jumped crawled marched danced rode flew".split()
_MANNERS = (
    "slowly quickly quietly loudly carefully suddenly happily again today alone together yesterday usually".split()
)
_TIMES = (
    "this morning|at night|before dinner|after the storm|last winter|every evening|on Monday|on Thursday|in July|"
    "during the war|a year ago|five days later|three times|for nine hours|until seven"
).split("|")
_WHERES = "near behind beyond under above inside towards through across around".split()
_VERDICTS = "was is became seemed looked".split()

_SHORT_NOUNS = "dog cat man boy girl fish bird cow king queen".split()
_SHORT_QUALITIES = "red big old sad black green".split()
_SHORT_DEEDS = "saw had took liked".split()
_SHORT_THINGS = "hat boat box milk ring bell".split()


def sentence(rng: Random) -> str:
    """A sentence of some five to fifteen words out of about 260, for speech whose words are of no concern."""

    def thing(words: list[str]) -> str:
        article = rng.choice(("the", "the", "this", "that", "her", "his", "our", "every"))
        return " ".join(
            filter(None, (article, rng.choice(_QUALITIES) if rng.random() < 0.6 else "", rng.choice(words)))
        )

    def place() -> str:
        return f"{rng.choice(_WHERES)} {thing(_PLACES)}"

    def someone() -> str:
        return thing(_PEOPLE if rng.random() < 0.6 else _ANIMALS)

    def clause() -> str:
        kind = rng.randrange(4)
        if kind == 0:
            return f"{someone()} {rng.choice(_DEEDS)} {thing(_THINGS)}"
        if kind == 1:
            return f"{someone()} {rng.choice(_MOVES)} {rng.choice((place(), rng.choice(_MANNERS)))}"
        if kind == 2:
            return f"{thing(_THINGS)} {place()} {rng.choice(_VERDICTS)} {rng.choice(_QUALITIES)}"
        return f"{someone()} {rng.choice(_DEEDS)} {thing(_THINGS)} {place()}"

    kind = rng.randrange(4)
    if kind == 0:
        text = f"{clause()} {rng.choice(_TIMES)}"
    elif kind == 1:
        text = f"{clause()}, {rng.choice(('and', 'but', 'because', 'while', 'so'))} {clause()}"
    elif kind == 2:
        text = f"{rng.choice(_TIMES)}, {clause()}"
    else:
        text = clause()
    return text[0].upper() + text[1:] + "."


def short_sentence(rng: Random) -> str:
    """Six to eight words out of 29, nearly all of one syllable: little enough for a character head to learn."""
    one, other = rng.sample(_SHORT_NOUNS, 2)
    patterns = (
        f"the {rng.choice(_SHORT_QUALITIES)} {one} {rng.choice(_SHORT_DEEDS)} the {other}",
        f"the {one} {rng.choice(_SHORT_DEEDS)} a {rng.choice(_SHORT_QUALITIES)} {rng.choice(_SHORT_THINGS)}",
        f"the {one} and the {other} {rng.choice(_SHORT_DEEDS)} the {rng.choice(_SHORT_THINGS)}",
    )
    return rng.choice(patterns)


def transcript(text: str) -> str:
    """As LibriSpeech writes it: upper case, letters and apostrophes alone.

    >>> transcript("At night, the fox's cub ran.")
    "AT NIGHT THE FOX'S CUB RAN"
    """
    return " ".join(re.sub(r"[^A-Z' ]", " ", text.upper()).split())
