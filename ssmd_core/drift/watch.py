"""Compares messages, one by one, with what is normal; the same on a live connection and on an archived hour."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from ssmd_core.clock import NS_PER_US
from ssmd_core.drift.baseline import Baseline, Expected, Learned, Rules
from ssmd_core.drift.facts import TypeFacts, type_facts
from ssmd_core.drift.findings import Finding, dropped_field, new_field, new_type, no_type, retyped_field
from ssmd_core.drift.kinds import Undecoded, family
from ssmd_core.drift.shapes import Node, Place, Shape
from ssmd_core.feeds.base import Feed

UNPARSED = "unparsed"
_REFRESH_EVERY = 64
# A type that is new with every message (ids where the type should be) is told a few times, then only counted.
_MAX_NEW_TYPES = 20


class _Run(NamedTuple):
    """Messages in a row that lack something.

    Attributes:
        since_ns, evidence: of the first.
        seen, parents: counts before it.
        messages: how many.
    """

    since_ns: int
    evidence: str
    seen: int
    parents: int
    messages: int = 0


class _Suspect:
    """A path or JSON type that may be news."""

    def __init__(self, place: Place, new_family: str, before: str, since_ns: int, evidence: str) -> None:
        self.place = place
        self.family = new_family
        self.before = before
        self.since_ns = since_ns
        self.evidence = evidence

    @property
    def sightings(self) -> int:
        """How often it was seen."""
        types = self.place.node.types
        return sum(count for kind, count in types.items() if not self.family or family(kind) == self.family)


class _TypeWatch:
    """One message type."""

    def __init__(self, name: str, learned: Learned, facts: TypeFacts, rules: Rules) -> None:
        self.name = name
        self.learned = learned
        self._facts = facts
        self._rules = rules
        self._runs: dict[tuple[str, bool], _Run] = {}
        self._suspects: list[_Suspect] = []
        self._version = -1
        self._countdown = 0

    def see(self, value: Any, at_ns: int, evidence: str) -> list[Finding]:
        """Look at the next message."""
        learned, shape = self.learned, self.learned.shape
        if isinstance(value, Undecoded):
            shape.note(value.why)
            return []
        shape.add(value)
        findings: list[Finding] = []
        self._countdown -= 1
        if shape.version != self._version:
            self._look_around(at_ns, evidence)
            self._countdown = -1
        if self._countdown < 0:
            learned.refresh(self._facts, self._rules, at_ns, self._runs)
            self._countdown = _REFRESH_EVERY
            self._version = shape.version
        if self._suspects:
            findings += self._decide()
        if learned.expected:
            findings += self._expect(shape, at_ns, evidence)
        return findings

    def _look_around(self, at_ns: int, evidence: str) -> None:
        """Find paths and JSON types that are not known yet."""
        learned, rules = self.learned, self._rules
        judged = at_ns - learned.since_ns >= rules.learn_ns and not self._facts.control
        # What is below a path that is new itself is not told apart, nor is what moved when keys turned out to be data.
        fresh: set[int] = set()
        for place in learned.shape.places():
            known = learned.known.get(place.path)
            node = place.node
            if known is None:
                learned.known[place.path] = set(map(family, node.types))
                fresh.add(id(node))
                news = judged and place.member and id(place.parent) not in fresh
                if news and _objects(place.parent) > rules.learned and not self._facts.knows(place.path):
                    self._suspects.append(_Suspect(place, "", "", at_ns, evidence))
                continue
            for kind in {family(kind) for kind in node.types} - known:
                known.add(kind)
                before = sorted(known - {"null", kind})
                if judged and kind != "null" and before and node.seen > rules.learned:
                    self._suspects.append(_Suspect(place, kind, " or ".join(before), at_ns, evidence))

    def _decide(self) -> list[Finding]:
        findings = []
        for suspect in [*self._suspects]:
            if suspect.sightings < self._rules.sightings:
                continue
            self._suspects.remove(suspect)
            path, types = suspect.place.path, suspect.place.node.types
            at_us = suspect.since_ns // NS_PER_US
            if suspect.family:
                columns = self._facts.columns(path)
                findings.append(
                    retyped_field(self.name, path, suspect.before, suspect.family, columns, at_us, suspect.evidence)
                )
            else:
                findings.append(new_field(self.name, path, types, at_us, suspect.evidence))
        return findings

    def _expect(self, shape: Shape, at_ns: int, evidence: str) -> list[Finding]:
        """Follow what is lacking."""
        now, runs = shape.messages, self._runs
        due: list[Expected] = []
        for expected in self.learned.expected:
            place = expected.place
            node: Node = place.node
            if expected.decimal:
                if node.text_at != now:
                    continue
                lacking = node.decimal_at != now
            elif node.seen_at == now:
                lacking = False
            elif place.parent is None or place.parent.object_at != now:
                continue
            else:
                lacking = True
            key = expected.key
            if not lacking:
                if runs:
                    runs.pop(key, None)
                continue
            run = runs.get(key) or _Run(at_ns, evidence, node.seen, max(node.seen, _objects(place.parent) - 1))
            run = runs[key] = run._replace(messages=run.messages + 1)
            if run.messages >= self._rules.run and at_ns - run.since_ns >= self._rules.run_ns:
                due.append(expected)
        return [self._gone(expected, at_ns) for expected in due]

    def _gone(self, expected: Expected, at_ns: int) -> Finding:
        learned, place = self.learned, expected.place
        run = self._runs.pop(expected.key)
        learned.expected = [other for other in learned.expected if other is not expected]
        learned.excused[place.path] = at_ns
        columns, since_us = self._facts.columns(place.path), run.since_ns // NS_PER_US
        if expected.decimal:
            return retyped_field(self.name, place.path, "decimal text", "other text", columns, since_us, run.evidence)
        before = f"{run.seen:,} of {run.parents:,}"
        return dropped_field(
            self.name, place.path, before, f"the last {run.messages:,}", columns, since_us, run.evidence
        )


class Watch:
    """A stream's messages against its baseline. Never raises, whatever the messages hold.

    Args:
        source: the feed's name, for people.
        baseline: is taught what is seen.
        facts: what the registry says of a type.
        known_types: types that are no news; None: no type is.
    """

    def __init__(
        self,
        source: str,
        baseline: Baseline,
        rules: Rules,
        facts: Callable[[str], TypeFacts],
        known_types: frozenset[str] | None,
    ) -> None:
        self.baseline = baseline
        self._source = source
        self._rules = rules
        self._facts = facts
        self._known_types = known_types
        self._types: dict[str, _TypeWatch] = {}
        self._new_types = 0

    @classmethod
    def of_feed(cls, feed: Feed, baseline: Baseline, rules: Rules) -> Watch:
        """A watch over a feed's messages."""
        return cls(feed.name, baseline, rules, lambda name: type_facts(feed, name), frozenset(feed.message_types))

    def see(self, message_type: str, value: Any, at_ns: int, evidence: str) -> tuple[Finding, ...]:
        """Look at the next message.

        Args:
            message_type: as routed; "" if it has none, which counts if it is an object.
            value: decoded, or an `Undecoded`.
            at_ns: receive time.
            evidence: what a finding shall cite.
        """
        if not message_type:
            if not isinstance(value, dict):
                return ()
            message_type = UNPARSED
        name = self.baseline.word(message_type)
        watch = self._types.get(name)
        findings: list[Finding] = []
        if watch is None:
            learned = self.baseline.types.get(name)
            if learned is None:
                learned = self.baseline.add(name, at_ns)
                findings += self._news(name, at_ns // NS_PER_US, evidence)
            learned.turn_back(at_ns)
            watch = self._types[name] = _TypeWatch(name, learned, self._facts(name), self._rules)
        findings += watch.see(value, at_ns, evidence)
        return tuple(findings)

    def _news(self, name: str, at_us: int, evidence: str) -> list[Finding]:
        if self._known_types is None or name in self._known_types or self._new_types >= _MAX_NEW_TYPES:
            return []
        self._new_types += 1
        if name == UNPARSED:
            return [no_type(self._source, at_us, evidence)]
        return [new_type(self._source, name, at_us, evidence)]


def _objects(node: Node | None) -> int:
    return node.types.get("object", 0) if node is not None else 0
