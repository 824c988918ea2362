"""What a document may cost, told from its text and its tree before anything of it is executed.

Validation by the specification's rules is not linear: fields of one name are compared in pairs (3,000 of them take
1.2 s), and a cycle of fragments ends other libraries' depth rules with a RecursionError. So the tree's plain counts are
limited first, then the specification's rules run, and what hangs on fragments spread out is measured last.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from graphql import (
    DocumentNode,
    FieldNode,
    FragmentDefinitionNode,
    FragmentSpreadNode,
    GraphQLError,
    GraphQLSchema,
    InlineFragmentNode,
    IntValueNode,
    ListValueNode,
    ObjectValueNode,
    OperationDefinitionNode,
    SelectionSetNode,
    ValueNode,
    VariableNode,
    get_named_type,
)

from ssmd_api.graphql.cursors import MAX_FIRST

MAX_BODY_BYTES = 64 * 1024
#: GraphiQL's introspection has 2 kB and 200 tokens; every column of every table together 4 kB.
MAX_QUERY_CHARS = 16_000
#: Of one number; Python refuses to read more than 4,300 digits.
MAX_DIGITS = 64
#: A token takes 12 µs to parse.
MAX_TOKENS = 1_000
MAX_FIELDS = 500
MAX_ALIASES = 30
MAX_DEPTH = 12
MAX_ROOT_FIELDS = 20
#: Fields that an answer could have, by what they cost; about 0.3 s of the processor for columns, 0.8 s for relations.
MAX_COST = 50_000
MAX_OPERATIONS = 10
MAX_FRAGMENTS = 20
MAX_SPREADS = 40
MAX_DIRECTIVES = 50
MAX_VARIABLES = 50
MAX_ARGUMENTS = 200
#: Elements of lists and members of objects, of all arguments together.
MAX_VALUES = 200
#: Selections of one name side by side; each is compared with each.
MAX_REPEATS = 10
#: Pairs of selections of one name in all fragments together: where fragments are spread side by side each is compared
#: with each, which takes up to 6 µs a pair. Twenty fragments with the same ten fields have 4,000.
MAX_PAIRS = 4_000
#: Of braces and brackets in the text: selections, inline fragments, lists, objects. The introspection has 15.
MAX_NEST = 32
#: Introspection nests types in types; its answer depends on the schema alone and is kept.
MAX_INTROSPECTION_DEPTH = 20

_COUNTED = {
    "fields": MAX_FIELDS,
    "aliases": MAX_ALIASES,
    "fragment spreads": MAX_SPREADS,
    "directives": MAX_DIRECTIVES,
    "variables": MAX_VARIABLES,
    "arguments": MAX_ARGUMENTS,
    "values in lists and objects": MAX_VALUES,
}
#: About how many there are in lists without `first`; a list of text counts one.
_LISTS = {"feeds": 8, "streams": 2, "days": 7, "hours": 24, "files": 200, "missing": 100}
#: A side of Kraken's deepest book has 1,000 levels; an hour has 60 minutes.
_LISTS |= {"bids": 1_000, "asks": 1_000, "integrity": 60}
#: What a field with a resolver of its own costs: a relation, or what is computed from arguments. It takes 50 to 90 µs,
#: a column some 4 µs.
_RESOLVED = 4
_WRAPPERS = frozenset({"nodes", "edges", "node", "pageInfo"})
_INTROSPECTION = frozenset({"__schema", "__type"})
# One alternative per kind of token; the rest between two matches is white space, commas and comments.
_TOKENS = re.compile(
    r'"""(?:[^"\\]|\\"""|\\|"(?!""))*"""|"(?:[^"\\\n\r]|\\.)*"|\.\.\.|[_A-Za-z][_0-9A-Za-z]*'
    r"|-?[0-9][0-9.eE+-]*|#[^\n\r]*|[^\s,\ufeff]"
)


def check_text(query: str) -> None:
    """Refuse a text that would be dear to parse: too long, too many tokens, nested too deeply.

    Raises:
        GraphQLError: it is.
    """
    if len(query) > MAX_QUERY_CHARS:
        raise GraphQLError(f"the document has {len(query)} characters, {MAX_QUERY_CHARS} is the most")
    tokens = nest = 0
    for match in _TOKENS.finditer(query):
        text = match[0]
        if text[0] == "#":
            continue
        tokens += 1
        if tokens > MAX_TOKENS:
            raise GraphQLError(f"the document has more than {MAX_TOKENS} tokens")
        if text[0] in "-0123456789" and len(text) > MAX_DIGITS:
            raise GraphQLError(f"a number of the document has {len(text)} characters, {MAX_DIGITS} is the most")
        if text in "{[(":
            nest += 1
            if nest > MAX_NEST:
                raise GraphQLError(f"the document is nested more than {MAX_NEST} deep")
        elif text in "}])":
            nest -= 1


def check_counts(document: DocumentNode) -> None:
    """Refuse a tree with too many of anything, without following fragments.

    Raises:
        GraphQLError: it has.
    """
    counts = dict.fromkeys(_COUNTED, 0)
    kinds = [type(definition) for definition in document.definitions]
    _limit("operations", kinds.count(OperationDefinitionNode), MAX_OPERATIONS)
    _limit("fragments", kinds.count(FragmentDefinitionNode), MAX_FRAGMENTS)
    todo: list[tuple[SelectionSetNode, dict[str, int], dict[str, int]]] = []
    in_operations: dict[str, int] = {}
    in_fragments: dict[str, int] = {}
    for definition in document.definitions:
        if not isinstance(definition, (OperationDefinitionNode, FragmentDefinitionNode)):
            raise GraphQLError("a document holds operations and fragments only", definition)
        counts["directives"] += len(definition.directives)
        variables = definition.variable_definitions or ()
        counts["variables"] += len(variables)
        counts["values in lists and objects"] += sum(_size(one.default_value) for one in variables)
        of_kind = in_fragments if isinstance(definition, FragmentDefinitionNode) else in_operations
        todo.append((definition.selection_set, {}, of_kind))
    while todo:
        selections, names, of_kind = todo.pop()
        for selection in selections.selections:
            counts["directives"] += len(selection.directives)
            if isinstance(selection, FieldNode):
                counts["fields"] += 1
                counts["aliases"] += selection.alias is not None
                counts["arguments"] += len(selection.arguments)
                counts["values in lists and objects"] += sum(_size(one.value) for one in selection.arguments)
                name = (selection.alias or selection.name).value
                names[name] = names.get(name, 0) + 1
                of_kind[name] = of_kind.get(name, 0) + 1
                if selection.selection_set is not None:
                    todo.append((selection.selection_set, {}, of_kind))
            elif isinstance(selection, InlineFragmentNode):
                todo.append((selection.selection_set, names, of_kind))
            else:
                counts["fragment spreads"] += 1
        _limit("selections of one name side by side", max(names.values(), default=0), MAX_REPEATS)
    for name, most in _COUNTED.items():
        _limit(name, counts[name], most)
    _limit("pairs of one name in its fragments", sum(count**2 for count in in_fragments.values()), MAX_PAIRS)


def _size(value: ValueNode | None) -> int:
    """How many elements and members a literal has; brackets are not nested deeply, see `check_text`."""
    if isinstance(value, ListValueNode):
        return len(value.values) + sum(map(_size, value.values))
    if isinstance(value, ObjectValueNode):
        return len(value.fields) + sum(_size(one.value) for one in value.fields)
    return 0


def _limit(name: str, count: int, most: int) -> None:
    if count > most:
        raise GraphQLError(f"the document has {count} {name}, {most} is the most")


class Measure:
    """Depth and number of root fields of an operation, and how many fields its answer could have.

    A column counts one, a field with a resolver `_RESOLVED`, a list's fields as often as its `first` says. Fragments
    count where they are spread; each is looked at once for each set of variables. The document has been validated:
    types fit, nothing is cyclic.
    """

    def __init__(self, schema: GraphQLSchema, document: DocumentNode, variables: Mapping[str, Any] | None) -> None:
        self._schema = schema
        self._variables = variables
        self._defaults: dict[str, ValueNode | None] = {}
        fragments = (one for one in document.definitions if isinstance(one, FragmentDefinitionNode))
        self._fragments = {one.name.value: one for one in fragments}
        self._known: dict[str, tuple[int, int, int]] = {}
        #: Whether the cost hangs on a variable; without variables such a list counts as one of one row.
        self.varies = False
        self.introspects = False
        #: Of all fields.
        self.names: set[str] = set()

    def check(self, operation: OperationDefinitionNode) -> None:
        """Refuse an operation that is too deep, too wide or too dear.

        Raises:
            GraphQLError: it is.
        """
        root = self._schema.get_root_type(operation.operation)
        self._defaults = {one.variable.name.value: one.default_value for one in operation.variable_definitions}
        try:
            cost, depth, roots = self._of(operation.selection_set, root, inside=False)
        except RecursionError:
            raise GraphQLError("the fragments are nested too deeply", operation) from None
        for text, value, most in (
            ("fields deep", depth, MAX_INTROSPECTION_DEPTH if self.introspects else MAX_DEPTH),
            ("root fields", roots, MAX_ROOT_FIELDS),
        ):
            if value > most:
                raise GraphQLError(f"the operation has {value} {text}, {most} is the most", operation)
        if cost > MAX_COST:
            text = f"the answer could have {cost} fields, {MAX_COST} is the most: ask for fewer rows (`first`)"
            raise GraphQLError(text, operation)

    def _of(self, selections: SelectionSetNode, kind: Any, *, inside: bool) -> tuple[int, int, int]:
        """Cost, depth, and number of fields side by side.

        Args:
            inside: of an introspection.
        """
        cost = depth = width = 0
        for one in selections.selections:
            if isinstance(one, FieldNode):
                found = self._of_field(one, kind, inside=inside)
            elif isinstance(one, InlineFragmentNode):
                within = self._schema.get_type(one.type_condition.name.value) if one.type_condition else kind
                found = self._of(one.selection_set, within, inside=inside)
            else:
                assert isinstance(one, FragmentSpreadNode)
                found = self._of_fragment(one.name.value, inside=inside)
            cost, depth, width = cost + found[0], max(depth, found[1]), width + found[2]
        return cost, depth, width

    def _of_fragment(self, name: str, *, inside: bool) -> tuple[int, int, int]:
        if name not in self._known:
            fragment = self._fragments[name]
            within = self._schema.get_type(fragment.type_condition.name.value)
            self._known[name] = self._of(fragment.selection_set, within, inside=inside)
        return self._known[name]

    def _of_field(self, node: FieldNode, kind: Any, *, inside: bool) -> tuple[int, int, int]:
        name = node.name.value
        self.names.add(name)
        if name in _INTROSPECTION or inside:
            self.introspects = inside = True
            if node.alias is not None:
                raise GraphQLError("an introspection takes no aliases", node)
        if node.selection_set is None:
            return (_RESOLVED if node.arguments else 1), 1, 1
        if inside:
            # Its size is the schema's: without aliases no field comes twice, and lists within lists are limited.
            _, depth, _ = self._of(node.selection_set, None, inside=True)
            return 1, depth + 1, 1
        field = kind.fields[name]
        times = self._first(node, field) if "first" in field.args else _LISTS.get(name, 1)
        cost, depth, _ = self._of(node.selection_set, get_named_type(field.type), inside=False)
        return (1 if name in _WRAPPERS else _RESOLVED) + times * cost, depth + 1, 1

    def _first(self, node: FieldNode, field: Any) -> int:
        value = next((one.value for one in node.arguments if one.name.value == "first"), None)
        found: Any = field.args["first"].default_value
        if isinstance(value, IntValueNode):
            found = int(value.value)
        elif isinstance(value, VariableNode):
            self.varies = True
            if self._variables is None:
                return 1
            default = self._defaults.get(value.name.value)
            found = self._variables.get(value.name.value)
            if found is None and isinstance(default, IntValueNode):
                found = int(default.value)
        return min(found, MAX_FIRST) if isinstance(found, int) and found > 0 else MAX_FIRST
