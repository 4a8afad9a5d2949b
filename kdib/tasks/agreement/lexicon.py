"""The words of the generated English and their selectional restrictions.

Every noun belongs to one of five semantic classes: P people, A animals, T things, L places, W writings. Adjectives,
prepositions and verbs list the classes with which they combine. Training sentences obey these selectional
restrictions, nonce sentences violate them. The lexicon is fixed and does not depend on any seed.
"""

from typing import NamedTuple

import numpy as np

CLASSES = "PATLW"

NOUNS = {
    "P": """
        teacher doctor farmer pilot singer lawyer nurse painter baker sailor student child/children
        woman/women man/men girl boy neighbor writer king queen soldier judge actor driver engineer
        gardener visitor friend cousin dancer scientist
    """,
    "A": """
        dog cat horse cow goat wolf/wolves fox bird owl eagle goose/geese hen rabbit mouse/mice lion
        tiger monkey/monkeys elephant donkey/donkeys pony spider frog snake turtle squirrel puppy kitten
        beetle camel sparrow
    """,
    "T": """
        key/keys box table chair cup knife/knives bottle lamp clock basket blanket hammer ladder bicycle
        boat wagon mirror candle piano/pianos violin ring coat hat shoe bag bucket engine camera drum
        wheel pillow
    """,
    "L": """
        garden house church bridge river village city castle farm school library museum station harbor
        island forest valley/valleys mountain market kitchen tower park lake factory theater hospital
        street field beach office
    """,
    "W": """
        letter book story poem report map song article diary essay/essays newspaper novel message note
        list recipe document speech contract picture photograph magazine manual dictionary chapter
        postcard proposal script legend sketch
    """,
}

# Subject classes, object classes, verbs.
TRANSITIVE = """
P PATLW: admire love | PA PATLW: like remember find see | P PLW: know |
PW PATLW: describe mention praise discuss | PA PATL: avoid watch fear | PA PA: follow hear |
A PA: chase | A PAT: bite | P PL: visit | P PATL: paint draw own |
P W: read write translate publish sign | PA TW: carry | P TL: repair clean | P ATLW: buy sell |
P PA: feed teach help | PAL PATLW: protect | PAL PATL: need | TLW TW: contain | PT TW: hold |
T TW: cover | AT L: block | L LT: surround | TLW PA: attract | L L: face | PA ATW: hide |
PW TW: explain | W PW: cite | PW W: summarize | PLW P: inspire | TLW P: please | ATLW P: surprise |
AW P: amuse | ATW PA: scare | AT TLW: damage | PA TLW: destroy | PA AT: touch | PA T: push pull |
PAT L: cross | PATW L: reach | PA L: enter leave | PA LTW: guard | PATLW PATLW: resemble |
PLTW P: impress | PT PT: support | TW TW: replace
"""
INTRANSITIVE = """
PA: sleep run sing wait walk swim return suffer | P: laugh smile dance complain | PT: work |
PATW: fall vanish arrive | PATL: stand | T: break | PAT: move | PAL: grow | TLW: burn |
PATLW: matter exist survive change | PLW: improve
"""
COPULAS = "PATLW: be seem remain look appear"

ADJECTIVES = """
P: kind polite famous honest cheerful wealthy generous grumpy talented stubborn retired |
PA: young clever brave nervous curious patient lonely tired hungry friendly happy gentle sleepy proud |
A: wild tame furry fierce playful striped spotted lazy |
T: wooden rusty shiny plastic sturdy hollow antique portable | TL: broken dusty useful empty |
TLW: expensive modern new | TW: cheap heavy thin |
L: crowded distant peaceful sunny foggy remote deserted busy rural medieval |
LW: ancient popular quiet |
W: boring interesting brief tedious anonymous detailed lengthy printed handwritten controversial amusing unfinished |
PATL: small large | PATLW: old beautiful strange | ATL: ugly noisy | PTL: tall | A: slow fast | AT: tiny
"""

# Head class, complement class, prepositions: "the keys to the cabinet".
PREPOSITIONS = """
PP: with beside behind near opposite | PA: with beside near behind |
PT: with without beside behind near | PL: in near from outside behind | PW: with without behind |
AP: of near beside behind with | AA: near beside behind with | AT: under near beside behind on |
AL: in near from outside behind | AW: in from | TP: of for from beside near | TA: for of beside near |
TT: on under beside inside with near behind | TL: in from outside near for |
TW: beside under on with near | LP: of for near | LA: for with near | LT: with without near |
LL: near beside behind in outside opposite | LW: in from with | WP: about for from by of |
WA: about of | WT: about in on under beside | WL: about in from of | WW: about in with beside on
"""
OPENING_PREPOSITIONS = """
P: with without like unlike for beside | A: with without like unlike beside |
T: with without under behind beside | L: in near behind outside around |
W: in with without despite throughout
"""

# A weight precedes each word. Most determiners drawn are not marked for number.
DETERMINERS = "48 the 2 no 3 some 5 my 4 your 6 his 6 her 6 our 6 their"
MARKED_DETERMINERS = ("6 this 4 every 2 each 2 another", "5 these 4 those 3 several 2 many")
POSSESSIVES = ("my", "your", "his", "her", "our", "their")

# Slots whose words are independent of the rest, as (tag, words). None is a noun or shows the number of the subject.
PHRASES = {
    "clause": ("IN", "because since although though after once"),
    "clause_who": ("PRP", "we they you she he"),
    "clause_adverb": ("RB", "finally suddenly already first eventually unexpectedly"),
    "clause_verb": ("VBD", "arrived returned moved stopped waited stayed left worked rested"),
    "clause_place": ("RB", "there here nearby outside upstairs inside"),
    "clause_time": ("RB", "recently again early late earlier yesterday"),
    "clause_comma": (",", ","),
    "remark": (
        "RB",
        "however fortunately today meanwhile surprisingly nowadays luckily sadly indeed moreover",
    ),
    "remark_comma": (",", ","),
    "opening_comma": (",", ","),
    "that": ("WDT", "that"),
    "that_who": ("PRP", "we they you she he"),
    "that_adverb": ("RB", "once often always really briefly secretly long clearly"),
    "that_verb": (
        "VBD",
        "saw noticed remembered admired mentioned liked described discussed missed wanted chose",
    ),
    "that_and": ("CC", "and but"),
    "that_and_adverb": ("RB", "never hardly barely soon later still already"),
    "that_and_verb": ("VBD", "forgot avoided recognized studied painted praised lost understood"),
    "that_place": ("RB", "there here nearby outside"),
    "that_time": ("RB", "recently again earlier before"),
    "aside": (",", ","),
    "aside_adverb": ("RB", "once formerly long often originally widely initially"),
    "aside_verb": ("VBN", "admired praised loved mentioned described respected noticed"),
    "aside_by": ("IN", "by"),
    "aside_whom": ("PRP", "us them you him her"),
    "aside_and": ("CC", "and but"),
    "aside_now": ("RB", "now later then soon"),
    "aside_rarely": ("RB", "rarely barely hardly seldom mostly largely"),
    "aside_and_verb": ("VBN", "forgotten ignored remembered avoided discussed feared"),
    "aside_and_by": ("IN", "by"),
    "aside_and_whom": ("PRP", "us them you him her"),
    "aside_comma": (",", ","),
    "perhaps": ("RB", "apparently clearly obviously perhaps probably certainly reportedly supposedly"),
    "often": (
        "RB",
        "always often usually rarely never sometimes still frequently seldom constantly normally",
    ),
    "very": ("RB", "very quite rather really extremely"),
    "manner": ("RB", "quietly slowly quickly carefully gladly again today openly badly patiently"),
    "stop": (".", "."),
}


class Lexicon(NamedTuple):
    """The lexicon as arrays. A *token* is a (word, tag) pair; token 0 is the blank.

    The restrictions are boolean: `adjective_fits` [C, adjectives], `preposition_fits` [C head, C complement,
    prepositions], `opening_fits` [C, prepositions], `subject_fits` [verbs, C] and `object_fits` [verbs, C].
    Forms are token numbers: `nouns` and `verbs` [n, 2] with singular first; `frame` [verbs] is 0 transitive,
    1 intransitive, 2 copula.
    """

    words: tuple[str, ...]
    tags: tuple[str, ...]
    nouns: np.ndarray
    noun_class: np.ndarray
    verbs: np.ndarray
    frame: np.ndarray
    subject_fits: np.ndarray
    object_fits: np.ndarray
    adjectives: np.ndarray
    adjective_fits: np.ndarray
    prepositions: np.ndarray
    preposition_fits: np.ndarray
    opening_fits: np.ndarray
    determiners: tuple[np.ndarray, np.ndarray]
    phrases: dict[str, np.ndarray]
    relative: int


def suffixed(stem: str) -> str:
    """The -s form of a regular noun or verb: box -> boxes, city -> cities, key -> keys."""
    if stem.endswith(("s", "x", "z", "ch", "sh")):
        return stem + "es"
    if stem.endswith("y") and stem[-2] not in "aeiou":
        return stem[:-1] + "ies"
    return stem + "s"


def _clauses(text: str) -> list[tuple[str, list[str]]]:
    """Parse "key: a b | key: c" to [(key, [a, b]), (key, [c])]."""
    parts = [entry.partition(":") for entry in text.split("|")]
    return [(key.strip(), words.split()) for key, _, words in parts]


def _fits(words: list[str], clauses: list[tuple[str, list[str]]]) -> np.ndarray:
    """[C, words]: True where a class combines with a word."""
    fits = np.zeros((len(CLASSES), len(words)), bool)
    for classes, members in clauses:
        for member in members:
            fits[[CLASSES.index(c) for c in classes], words.index(member)] = True
    return fits


def _weighted(text: str) -> list[str]:
    """Parse "2 this 1 every" to [this, this, every], from which a uniform choice is a weighted one."""
    parts = text.split()
    return [word for weight, word in zip(parts[::2], parts[1::2], strict=True) for _ in range(int(weight))]


def _noun_forms() -> list[tuple[str, str, int]]:
    """(singular, plural, class) of every noun."""
    entries = [(word.partition("/"), c) for c, name in enumerate(CLASSES) for word in NOUNS[name].split()]
    return [(singular, plural or suffixed(singular), c) for (singular, _, plural), c in entries]


def _verb_entries() -> list[tuple[str, str, str, int]]:
    """(verb, subject classes, object classes, frame) of every verb; a verb without object has no object classes."""
    transitive = [
        (verb, agents, patients, 0)
        for agents, patients, verbs in ((*key.split(), verbs) for key, verbs in _clauses(TRANSITIVE))
        for verb in verbs
    ]
    others = [
        (v, key, "", 1 + frame)
        for frame, text in enumerate((INTRANSITIVE, COPULAS))
        for key, verbs in _clauses(text)
        for v in verbs
    ]
    return transitive + others


def build() -> Lexicon:
    """Number all tokens and convert the word lists above into arrays."""
    tokens: dict[tuple[str, str], int] = {("", ""): 0}

    def number(words: list[str], tag: str) -> np.ndarray:
        return np.array([tokens.setdefault((word, tag), len(tokens)) for word in words])

    def determiners(text: str) -> np.ndarray:
        return np.array([number([w], "PRP$" if w in POSSESSIVES else "DT")[0] for w in _weighted(text)])

    nouns, verbs = _noun_forms(), _verb_entries()
    adjectives = list(dict.fromkeys(w for _, words in _clauses(ADJECTIVES) for w in words))
    links = [*_clauses(PREPOSITIONS), *_clauses(OPENING_PREPOSITIONS)]
    prepositions = list(dict.fromkeys(w for _, words in links for w in words))
    preposition_fits = np.zeros((len(CLASSES), len(CLASSES), len(prepositions)), bool)
    for (head, complement), words in _clauses(PREPOSITIONS):
        columns = [prepositions.index(w) for w in words]
        preposition_fits[CLASSES.index(head), CLASSES.index(complement), columns] = True
    lexicon = Lexicon(
        words=(),
        tags=(),
        nouns=np.stack([number([n[0] for n in nouns], "NN"), number([n[1] for n in nouns], "NNS")], axis=1),
        noun_class=np.array([n[2] for n in nouns]),
        verbs=np.stack(
            [
                number(["is" if v[0] == "be" else suffixed(v[0]) for v in verbs], "VBZ"),
                number(["are" if v[0] == "be" else v[0] for v in verbs], "VBP"),
            ],
            axis=1,
        ),
        frame=np.array([v[3] for v in verbs]),
        subject_fits=np.array([[c in v[1] for c in CLASSES] for v in verbs]),
        object_fits=np.array([[c in v[2] for c in CLASSES] for v in verbs]),
        adjectives=number(adjectives, "JJ"),
        adjective_fits=_fits(adjectives, _clauses(ADJECTIVES)),
        prepositions=number(prepositions, "IN"),
        preposition_fits=preposition_fits,
        opening_fits=_fits(prepositions, _clauses(OPENING_PREPOSITIONS)),
        determiners=(
            determiners(f"{DETERMINERS} {MARKED_DETERMINERS[0]}"),
            determiners(f"{DETERMINERS} {MARKED_DETERMINERS[1]}"),
        ),
        phrases={slot: number(words.split(), tag) for slot, (tag, words) in PHRASES.items()},
        relative=int(number(["that"], "WDT")[0]),
    )
    words, tags = zip(*tokens, strict=True)
    return lexicon._replace(words=words, tags=tags)


LEXICON = build()
