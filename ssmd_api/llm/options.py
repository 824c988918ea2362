"""What the operator has set for the proxy, in rows of `settings`."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Annotated, Any, Literal

import msgspec
import structlog
from msgspec import Meta

from ssmd_api.errors import ForbiddenError, UnavailableError
from ssmd_api.llm.wire import MaxTokens, Name
from ssmd_api.params import shown

log = structlog.get_logger()

_MTOK = Decimal(1_000_000)


class Model(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, frozen=True):
    """A model that may be asked.

    Attributes:
        model: name that clients use.
        upstream_model: name that the upstream knows it by; None for the same.
        input_usd_per_mtok, output_usd_per_mtok: dollars per million tokens; None if not known.
    """

    model: Name
    upstream_model: Name | None = None
    input_usd_per_mtok: Decimal | None = None
    output_usd_per_mtok: Decimal | None = None

    def __post_init__(self) -> None:
        for price in (self.input_usd_per_mtok, self.output_usd_per_mtok):
            if price is not None and not (price.is_finite() and price >= 0):
                raise ValueError(f"{self.model} cannot cost {price} dollars")

    @property
    def upstream_name(self) -> str:
        """Name that the upstream knows it by."""
        return self.upstream_model or self.model

    def cost_usd(self, tokens: tuple[int, int] | None) -> Decimal | None:
        """Price of prompt and completion tokens; None if one of the prices, or the tokens, are not known."""
        if tokens is None or self.input_usd_per_mtok is None or self.output_usd_per_mtok is None:
            return None
        return (tokens[0] * self.input_usd_per_mtok + tokens[1] * self.output_usd_per_mtok) / _MTOK


#: Models without a row `llm_models`, at Anthropic's list prices of November 2026.
DEFAULT_MODELS = tuple(
    Model(model=name, input_usd_per_mtok=Decimal(prompt), output_usd_per_mtok=Decimal(completion))
    for name, prompt, completion in (
        ("claude-opus-5-5", 4, 20),
        ("claude-sonnet-5", 2, 10),
        ("claude-haiku-4-5", 1, 5),
    )
)


class Options(msgspec.Struct, kw_only=True, frozen=True):
    """The rows; each stands for the row of its name.

    Attributes:
        guardrail_max_tokens: most of one answer; None for no limit.
        guardrail_max_messages: most that are sent on; the oldest others are left out.
    """

    llm_models: tuple[Model, ...] = DEFAULT_MODELS
    guardrail_injection_enabled: bool = False
    guardrail_pii_enabled: bool = False
    guardrail_pii_action: Literal["block", "redact"] = "block"
    guardrail_max_tokens: MaxTokens | None = None
    guardrail_max_messages: Annotated[int, Meta(ge=2, le=10_000)] = 50

    def model(self, name: str) -> Model:
        """The allowed model of a name.

        Raises:
            ForbiddenError: there is none.
        """
        for model in self.llm_models:
            if model.model == name:
                return model
        known = ", ".join(model.model for model in self.llm_models)
        raise ForbiddenError(f"the model {shown(name)} is not allowed; allowed: {known}", field="model")


def options_of(rows: Mapping[str, Any]) -> Options:
    """The options that rows of `settings` give; a model may be its name alone.

    Raises:
        UnavailableError: a row cannot be used; no guardrail is guessed at.
    """
    values = dict(rows)
    if isinstance(models := values.get("llm_models"), list):
        values["llm_models"] = [{"model": model} if isinstance(model, str) else model for model in models]
    try:
        return msgspec.convert(values, Options)
    except msgspec.ValidationError as error:
        log.error("llm_settings_invalid", error=str(error))
        raise UnavailableError(f"the settings of the proxy cannot be used: {error}") from None
