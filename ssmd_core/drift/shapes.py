"""What JSON objects look like: for every path the JSON types seen, and how often it is there.

A path is dotted members from the message; `[]` stands for an array's elements and `{}` for the values of an object
whose keys are data: `msg.price_dollars`, `data[].bids[].price`, `result.{}.wsname`. "" is the message itself.

Keys are data if they do not look like a member's name (ids, tickers, Kraken's pairs: a name is ASCII, has a lower-case
letter and no five digits in a row) or if an object has more than `MAX_MEMBERS` different ones. Both rules depend on the
set of keys only, so that the order of the messages changes nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice
from typing import Any, NamedTuple

from ssmd_core.drift.kinds import PLAIN, Undecoded, decoded, text_kind

MAX_DEPTH = 8
#: The widest object known, a market of Gamma, has some 90 members.
MAX_MEMBERS = 128
#: Of an array, evenly spaced.
MAX_ELEMENTS = 16
#: Of one type in a document; deeper levels are left out until it fits.
MAX_PATHS = 300
#: Of all types in memory, 8 MB; reached only by nonsense. From then on new paths are not taken in.
MAX_PATHS_HELD = 20_000
MAX_TYPES = 200
OTHER_TYPE = "other"

_NAME = re.compile(r"(?=[^a-z]*[a-z])(?!.*[0-9]{5})[A-Za-z_@$][A-Za-z0-9_@$]{0,47}")
_TYPE = re.compile(r"[!-~]{1,64}")
_PRESENCE_DIGITS = 6


class Node:
    """One path.

    Attributes:
        types: how often each JSON type was seen.
        members: children of an object, by name.
        elements: of an array.
        values: of an object whose keys are data.
        full: whether all members go to `values`.
        seen_at, object_at, text_at, decimal_at: number of the last message in which it was there and not null, was an
            object, non-empty text, decimal text.
    """

    __slots__ = ("decimal_at", "elements", "full", "members", "object_at", "seen_at", "text_at", "types", "values")

    def __init__(self) -> None:
        self.types: dict[str, int] = {}
        self.members: dict[str, Node] = {}
        self.elements: Node | None = None
        self.values: Node | None = None
        self.full = False
        self.seen_at = self.object_at = self.text_at = self.decimal_at = -1

    @property
    def seen(self) -> int:
        """How often it was there and not null."""
        return sum(self.types.values()) - self.types.get("null", 0)

    def children(self) -> Iterator[tuple[str, Node]]:
        """Path segments and what is there, sorted."""
        if self.elements is not None:
            yield "[]", self.elements
        if self.values is not None:
            yield ".{}", self.values
        for name in sorted(self.members):
            yield "." + name, self.members[name]


class Place(NamedTuple):
    """A path of a shape.

    Attributes:
        path: see module.
        node: what is there.
        parent: node above; None at the message itself.
        member: whether it is a member of an object, by name.
    """

    path: str
    node: Node
    parent: Node | None
    member: bool


class Room:
    """How many more paths may be held."""

    __slots__ = ("left",)

    def __init__(self, left: int = MAX_PATHS_HELD) -> None:
        self.left = left


class Shape:
    """What the messages of one type look like.

    Attributes:
        messages: looked at.
        root: path "".
        version: grows whenever a path or a type is seen for the first time.
    """

    def __init__(self, room: Room | None = None) -> None:
        self.messages = 0
        self.root = Node()
        self.version = 0
        self._cut: int | None = None
        self._room = room or Room()

    def add(self, value: Any) -> None:
        """Look at a decoded message."""
        self.messages += 1
        self._visit(self.root, value, 0)

    def note(self, kind: str) -> None:
        """Count a message that could not be decoded."""
        self.messages += 1
        self._count(self.root, kind)

    def _count(self, node: Node, kind: str) -> None:
        types = node.types
        if kind in types:
            types[kind] += 1
        else:
            types[kind] = 1
            self.version += 1

    def _visit(self, node: Node, value: Any, depth: int) -> None:
        kind = PLAIN.get(type(value)) or text_kind(value)
        types = node.types
        if kind in types:
            types[kind] += 1
        else:
            types[kind] = 1
            self.version += 1
        if kind == "null":
            return
        now = self.messages
        node.seen_at = now
        if kind == "object":
            node.object_at = now
            if depth < MAX_DEPTH:
                self._visit_object(node, value, depth + 1)
        elif kind == "array":
            if value and depth < MAX_DEPTH:
                child = node.elements or self._elements(node)
                if child is not None:
                    for element in value[:: -(-len(value) // MAX_ELEMENTS)]:
                        self._visit(child, element, depth + 1)
        elif kind == "decimal text":
            node.text_at = node.decimal_at = now
        elif kind == "text":
            node.text_at = now

    def _visit_object(self, node: Node, value: dict[str, Any], depth: int) -> None:
        members = node.members
        if len(value) > MAX_MEMBERS and not node.full:
            self._fold(node)
        for key, item in islice(value.items(), MAX_MEMBERS):
            child = members.get(key) or self._child(node, key)
            if child is not None:
                self._visit(child, item, depth)

    def _new(self) -> Node | None:
        if self._room.left <= 0:
            return None
        self._room.left -= 1
        self.version += 1
        return Node()

    def _elements(self, node: Node) -> Node | None:
        node.elements = self._new()
        return node.elements

    def _child(self, node: Node, key: str) -> Node | None:
        if not node.full and _NAME.fullmatch(key):
            child = self._new()
            if child is not None:
                node.members[key] = child
                if len(node.members) > MAX_MEMBERS:
                    self._fold(node)
                    return node.values
            return child
        if node.values is None:
            node.values = self._new()
        return node.values

    def _fold(self, node: Node) -> None:
        """From now on the object's keys are data."""
        node.full = True
        self.version += 1
        for child in node.members.values():
            if node.values is None:
                node.values = child
            else:
                self._absorb(node.values, child)
        node.members.clear()

    def _absorb(self, node: Node, other: Node) -> None:
        self._room.left += 1
        for kind, count in other.types.items():
            node.types[kind] = node.types.get(kind, 0) + count
        for at in ("seen_at", "object_at", "text_at", "decimal_at"):
            setattr(node, at, max(getattr(node, at), getattr(other, at)))
        for name in ("elements", "values"):
            mine, theirs = getattr(node, name), getattr(other, name)
            if mine is None:
                setattr(node, name, theirs)
            elif theirs is not None:
                self._absorb(mine, theirs)
        for key, child in other.members.items():
            if key in node.members:
                self._absorb(node.members[key], child)
            else:
                node.members[key] = child
        if other.full or len(node.members) > MAX_MEMBERS or (node.full and node.members):
            self._fold(node)

    def halve(self) -> None:
        """Halve all counts: what is old weighs less. What was ever seen stays known."""
        self.messages //= 2
        for place in self.places():
            node = place.node
            node.types = {kind: count // 2 for kind, count in node.types.items()}
            node.seen_at = node.object_at = node.text_at = node.decimal_at = -1

    def places(self, max_depth: int = MAX_DEPTH + 1) -> Iterator[Place]:
        """All paths, parents first."""
        pending = [(Place("", self.root, None, False), 0)]
        while pending:
            place, depth = pending.pop()
            yield place
            if depth < max_depth:
                for segment, child in place.node.children():
                    path = (place.path + segment).removeprefix(".")
                    member = segment[0] == "." and segment != ".{}"
                    pending.append((Place(path, child, place.node, member), depth + 1))

    def document(self, max_paths: int = MAX_PATHS) -> dict[str, Any]:
        """For JSON: `messages` and, by path, `types` (counts), `presence` (share of its parents that have it and not
        null; null for elements, whose number is not bounded by that of their parents) and `keys`, `data` where all
        keys are taken for data. `cut` is the depth from which on paths are left out, null if none are."""
        depth = MAX_DEPTH + 1
        places = list(self.places())
        cut = self._cut
        while len(places) > max_paths:
            depth -= 1
            places = list(self.places(depth))
            cut = depth
        paths = {place.path: self._said(place) for place in sorted(places, key=lambda place: place.path)}
        return {"messages": self.messages, "cut": cut, "paths": paths}

    def _said(self, place: Place) -> dict[str, Any]:
        said: dict[str, Any] = {
            "types": dict(sorted(place.node.types.items())),
            "presence": _presence(place, self.messages),
        }
        return said | {"keys": "data"} if place.node.full else said

    @classmethod
    def from_document(cls, document: dict[str, Any], room: Room | None = None) -> Shape:
        """The shape of which `document` made this.

        Raises:
            ValueError, KeyError, TypeError, AttributeError: it is none.
        """
        shape = cls(room)
        shape.messages = int(document["messages"])
        shape._cut = None if document["cut"] is None else int(document["cut"])
        for path, said in document["paths"].items():
            node = shape.root
            for segment in _segments(path):
                node = shape._at(node, segment)
            node.types = {str(kind): int(count) for kind, count in said["types"].items()}
            node.full = said.get("keys") == "data"
        return shape

    def _at(self, node: Node, segment: str) -> Node:
        if segment == "[]":
            found = node.elements or self._elements(node)
        elif segment == "{}":
            if node.values is None:
                node.values = self._new()
            found = node.values
        else:
            found = node.members.get(segment) or self._child(node, segment)
        if found is None:
            raise ValueError(f"more than {MAX_PATHS_HELD} paths")
        return found


class Shapes:
    """What a stream's messages look like, by message type."""

    def __init__(self) -> None:
        self.types: dict[str, Shape] = {}
        self._room = Room()

    def add(self, message_type: str, payload: bytes) -> None:
        """Look at a message; whatever it holds, this does not raise."""
        self.add_value(message_type, decoded(payload))

    def add_value(self, message_type: str, value: Any) -> None:
        """Look at a message that `decoded` has read."""
        shape = self.of(message_type)
        if isinstance(value, Undecoded):
            shape.note(value.why)
        else:
            shape.add(value)

    def of(self, message_type: str) -> Shape:
        """The shape of a type; `other` stands for all types from the 200th on and for words that are none."""
        found = self.types.get(message_type)
        if found is None:
            message_type = type_word(message_type)
            if len(self.types) >= MAX_TYPES and message_type not in self.types:
                message_type = OTHER_TYPE
            found = self.types.setdefault(message_type, Shape(self._room))
        return found

    def document(self) -> dict[str, Any]:
        """For JSON, by message type; the same messages in any order make the same document."""
        return {name: self.types[name].document() for name in sorted(self.types)}

    @classmethod
    def from_document(cls, document: dict[str, Any]) -> Shapes:
        """The shapes of which `document` made this.

        Raises:
            ValueError, KeyError, TypeError, AttributeError: it is none.
        """
        shapes = cls()
        for name, said in document.items():
            shapes.types[name] = Shape.from_document(said, shapes._room)
        return shapes


def type_word(message_type: str) -> str:
    """The word under which a type is kept: itself, or `other` if it is too long or not printable."""
    return message_type if _TYPE.fullmatch(message_type) else OTHER_TYPE


def _presence(place: Place, messages: int) -> float | None:
    if place.parent is None:
        return 1.0 if messages else 0.0
    if not place.member:
        return None
    parents = place.parent.types.get("object", 0)
    return round(min(1.0, place.node.seen / parents), _PRESENCE_DIGITS) if parents else 0.0


def _segments(path: str) -> list[str]:
    return [part for part in path.replace("[]", ".[]").split(".") if part]
