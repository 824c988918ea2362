"""What is normal for a stream, type by type: learned quietly, carried over restarts and from hour to hour."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, NamedTuple

import orjson

from ssmd_core.clock import NS_PER_S
from ssmd_core.drift.facts import TypeFacts
from ssmd_core.drift.kinds import family
from ssmd_core.drift.shapes import MAX_PATHS_HELD, MAX_TYPES, OTHER_TYPE, Place, Room, Shape, Shapes, type_word

VERSION = 1
# Counts are halved then: what is told of "before" is about the last few thousand messages looked at, and a member that
# came new is expected to stay after some seven halvings.
_HALVE_AT = 4096
_ALWAYS = 0.99
# Something reported is not reported again for a day, however often it comes and goes meanwhile.
EXCUSED_NS = 24 * 3600 * NS_PER_S


class Rules(NamedTuple):
    """When a change counts.

    A member is expected if it was in 99 % of at least `learned` objects of its kind; it is dropped when `run` messages
    in a row lack it (or hold null) over at least `run_ns`. With a member that is missing from one message in a hundred
    by chance a run of 8 has probability 10⁻¹⁶; what is really at work is not chance but bursts of one market that are
    different, and those the time is for. A member or JSON type that was not there in `learned` objects counts when it
    was seen `sightings` times; one that is in 1 of 50 messages was seen with probability 1 - 0.98³⁰⁰ = 99.8 % before
    that, and types that the registry reads are never news.

    Attributes:
        learned: messages of a type, or objects at a path, from which on it is judged.
        learn_ns: time for which a type is only learned.
        run, run_ns, sightings: see above.
    """

    learned: int
    learn_ns: int
    run: int
    run_ns: int
    sightings: int


#: Messages: of a type that comes once a second a change is found after 8 s. 20 minutes hold one round of the markets
#: that open every quarter of an hour.
MESSAGES = Rules(learned=300, learn_ns=1200 * NS_PER_S, run=8, run_ns=5 * NS_PER_S, sightings=3)
#: Bodies: pages of one listing are alike, those of the next may not be, so a whole day is learned and an hour awaited.
BODIES = Rules(learned=300, learn_ns=24 * 3600 * NS_PER_S, run=8, run_ns=3600 * NS_PER_S, sightings=3)


Key = tuple[str, bool]


class Expected(NamedTuple):
    """Something that every message should have.

    Attributes:
        place: a member.
        decimal: whether what is expected is that its text, where there is one, is a decimal, or that it is there.
    """

    place: Place
    decimal: bool

    @property
    def key(self) -> Key:
        """Path and `decimal`."""
        return self.place.path, self.decimal


class Learned:
    """One message type.

    Attributes:
        shape: counts that fade.
        since_ns: when the first message was seen; 0 if before everything.
        known: by path the families of JSON types that are no news.
        excused: paths that were reported as dropped or retyped, and when.
        expected: what every message should have, as of the last `refresh`.
    """

    def __init__(self, shape: Shape, since_ns: int) -> None:
        self.shape = shape
        self.since_ns = since_ns
        self.known: dict[str, set[str]] = {}
        self.excused: dict[str, int] = {}
        self.expected: list[Expected] = []

    def turn_back(self, at_ns: int) -> None:
        """No moment of the past lies in the future: a clock that was wrong once must not put off learning for years."""
        self.since_ns = min(self.since_ns, at_ns)
        self.excused = {path: min(told, at_ns) for path, told in self.excused.items()}

    def know_all(self) -> None:
        """Nothing that was seen so far is news."""
        for place in self.shape.places():
            self.known.setdefault(place.path, set()).update(map(family, place.node.types))

    def refresh(self, facts: TypeFacts, rules: Rules, at_ns: int, lacking: Collection[Key]) -> None:
        """Fade the counts when it is time, and find out anew what to expect.

        Args:
            lacking: what has been missing of late; it stays expected, however rare it becomes, until it is told or
                comes again.
        """
        kept = {expected.key for expected in self.expected}.intersection(lacking)
        if self.shape.messages >= _HALVE_AT:
            self.shape.halve()
        self.excused = {path: told for path, told in self.excused.items() if at_ns - told < EXCUSED_NS}
        self.expected = []
        if at_ns - self.since_ns < rules.learn_ns or facts.control:
            return
        for place in self.shape.places():
            if place.member and place.parent is not None and place.path not in self.excused:
                node, parents = place.node, place.parent.types.get("object", 0)
                decimals, texts = node.types.get("decimal text", 0), node.types.get("text", 0)
                present = parents >= rules.learned and node.seen >= _ALWAYS * parents
                decimal = decimals >= rules.learned and decimals >= _ALWAYS * (decimals + texts)
                if (place.path, False) in kept or (present and not facts.may_be_absent(place.path)):
                    self.expected.append(Expected(place, decimal=False))
                if (place.path, True) in kept or decimal:
                    self.expected.append(Expected(place, decimal=True))


class Baseline:
    """All message types of a stream.

    Attributes:
        types: by the venue's word.
    """

    def __init__(self) -> None:
        self.types: dict[str, Learned] = {}
        self._room = Room()

    def word(self, message_type: str) -> str:
        """The word under which a type is kept, see `Shapes.of`."""
        word = type_word(message_type)
        return word if word in self.types or len(self.types) < MAX_TYPES else OTHER_TYPE

    def add(self, word: str, at_ns: int) -> Learned:
        """Begin to learn a type."""
        learned = self.types[word] = Learned(Shape(self._room), at_ns)
        return learned

    @classmethod
    def learned(cls, shapes: Shapes) -> Baseline:
        """A baseline that takes these shapes as normal, from now on and without further learning."""
        return cls._of({name: (shape.document(MAX_PATHS_HELD), 0) for name, shape in shapes.types.items()})

    @classmethod
    def _of(cls, types: dict[str, tuple[dict[str, Any], int]]) -> Baseline:
        baseline = cls()
        for name, (said, since_ns) in types.items():
            learned = baseline.types[name] = Learned(Shape.from_document(said, baseline._room), since_ns)
            learned.know_all()
        return baseline

    def document(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "version": VERSION,
            "types": {
                name: learned.shape.document(MAX_PATHS_HELD)
                | {"since_ns": learned.since_ns, "excused": dict(sorted(learned.excused.items()))}
                for name, learned in sorted(self.types.items())
            },
        }

    @classmethod
    def from_document(cls, document: dict[str, Any]) -> Baseline:
        """The baseline of which `document` made this.

        Raises:
            ValueError, KeyError, TypeError, AttributeError: it is none, or of another version.
        """
        if document["version"] != VERSION:
            raise ValueError(f"version {document['version']!r} instead of {VERSION}")
        types = document["types"]
        baseline = cls._of({name: (said, int(said["since_ns"])) for name, said in types.items()})
        for name, said in types.items():
            baseline.types[name].excused = {str(path): int(told) for path, told in said["excused"].items()}
        return baseline

    @classmethod
    def from_json(cls, content: bytes) -> Baseline:
        """See `from_document`; its errors are those of orjson too, which are ValueErrors."""
        return cls.from_document(orjson.loads(content))
