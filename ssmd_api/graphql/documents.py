"""Documents, parsed and validated once and kept by their text."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass

from graphql import (
    DocumentNode,
    GraphQLError,
    GraphQLSchema,
    OperationDefinitionNode,
    OperationType,
    parse,
    specified_rules,
    validate,
)

from ssmd_api.graphql.limits import MAX_TOKENS, Measure, check_counts, check_text

_MAX_KEPT = 500
_MAX_KEPT_BYTES = 32 * 1024 * 1024
# Measured: a tree takes 140 bytes for each character of a usual text, its tokens included; short names take more.
_BYTES_A_CHARACTER = 300
_MAX_ERRORS = 5


@dataclass(frozen=True, slots=True)
class Prepared:
    """A document that may be executed.

    Attributes:
        operations: by name; "" for one without.
        introspects: whether it asks for the schema.
        varies: whether its cost hangs on variables, and is to be checked with them.
        names: of all fields in it.
    """

    document: DocumentNode
    operations: Mapping[str, OperationDefinitionNode]
    introspects: bool
    varies: bool
    names: frozenset[str]

    def operation(self, name: str | None) -> OperationDefinitionNode:
        """The operation of that name, or the only one.

        Raises:
            GraphQLError: there is none, or it is not told which.
        """
        if name:
            if (found := self.operations.get(name)) is None:
                raise GraphQLError("there is no operation of the name operationName")
            return found
        if len(self.operations) != 1:
            raise GraphQLError("the document has several operations: operationName says which")
        return next(iter(self.operations.values()))


class InvalidDocumentError(Exception):
    """A document that will not be executed.

    Attributes:
        errors: why.
    """

    def __init__(self, errors: list[GraphQLError]) -> None:
        super().__init__(errors[0].message)
        self.errors = errors


class Documents:
    """Prepared documents, the least recently used out first; what is refused is not kept."""

    def __init__(self, schema: GraphQLSchema) -> None:
        self.schema = schema
        self._kept: OrderedDict[str, Prepared] = OrderedDict()
        self.size_bytes = 0

    @property
    def kept(self) -> int:
        """How many documents are kept."""
        return len(self._kept)

    def prepare(self, query: str) -> Prepared:
        """The document of a text.

        Raises:
            InvalidDocumentError: it is no document of this schema, or above a limit.
        """
        found = self._kept.get(query)
        if found is not None:
            self._kept.move_to_end(query)
            return found
        prepared = prepare(self.schema, query)
        self._kept[query] = prepared
        self.size_bytes += len(query) * _BYTES_A_CHARACTER
        while self.size_bytes > _MAX_KEPT_BYTES or len(self._kept) > _MAX_KEPT:
            text, _ = self._kept.popitem(last=False)
            self.size_bytes -= len(text) * _BYTES_A_CHARACTER
        return prepared


def prepare(schema: GraphQLSchema, query: str) -> Prepared:
    """Parse and validate. Raises: see `Documents.prepare`."""
    try:
        check_text(query)
        document = parse(query, max_tokens=MAX_TOKENS)
        check_counts(document)
        if errors := validate(schema, document, specified_rules, max_errors=_MAX_ERRORS):
            raise InvalidDocumentError(errors)
        operations = {
            one.name.value if one.name else "": one
            for one in document.definitions
            if isinstance(one, OperationDefinitionNode)
        }
        if not operations:
            raise GraphQLError("the document has no operation")
        measure = Measure(schema, document, None)
        for operation in operations.values():
            if operation.operation is OperationType.SUBSCRIPTION:
                raise GraphQLError("there are no subscriptions", operation)
            measure.check(operation)
    except GraphQLError as error:
        raise InvalidDocumentError([error]) from None
    except RecursionError:
        raise InvalidDocumentError([GraphQLError("the document is nested too deeply")]) from None
    return Prepared(document, operations, measure.introspects, measure.varies, frozenset(measure.names))
