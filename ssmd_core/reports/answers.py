"""What the model must answer: pydantic models, of which the schema that the provider enforces is made, too.

The provider enforces members, types and words; lengths only pydantic checks. An answer that breaks one is none: it is
not cut to fit.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from ssmd_core.reports.evidence import Status

MAX_HIGHLIGHTS = 5
MAX_CLAIM_CHARS = 600
Direction = Literal["improving", "stable", "degrading"]
_Sentence = Annotated[str, Field(min_length=1, max_length=MAX_CLAIM_CHARS)]
_Name = Annotated[str, Field(min_length=1, max_length=200)]
_Citations = Annotated[list[Annotated[str, Field(max_length=400)]], Field(max_length=40)]


class Claim(BaseModel):
    """Something that is said because of rows."""

    model_config = ConfigDict(extra="forbid", strict=True)

    citations: _Citations = Field(description="ids of rows that show it; a claim without any is thrown away")


class Sentence(Claim):
    """A claim in words."""

    text: _Sentence


class FeedClaim(Claim):
    """What is wrong with a feed."""

    feed: _Name
    status: Status
    issue: _Sentence
    likely_cause: _Sentence
    action: _Sentence


class TrendClaim(Claim):
    """Where a feed's score is going."""

    feed: _Name
    direction: Direction
    note: _Sentence


class DiagnosisAnswer(BaseModel):
    """A diagnosis."""

    model_config = ConfigDict(extra="forbid", strict=True)

    overall_status: Status
    summary: Sentence
    feeds: Annotated[list[FeedClaim], Field(max_length=20)]
    trends: Annotated[list[TrendClaim], Field(max_length=20)]
    recommendations: Annotated[list[Sentence], Field(max_length=10)]


class FeedVolumeClaim(Claim):
    """What is worth noting of a feed's trades; the numbers are ssmd's own."""

    feed: _Name
    notable: _Sentence


class HighlightClaim(Claim):
    """An instrument that stands out."""

    feed: _Name
    ticker: _Name
    why: _Sentence


class VolumeAnswer(BaseModel):
    """What was traded."""

    model_config = ConfigDict(extra="forbid", strict=True)

    summary: Sentence
    feed_summaries: Annotated[list[FeedVolumeClaim], Field(max_length=20)]
    market_highlights: Annotated[list[HighlightClaim], Field(max_length=MAX_HIGHLIGHTS)]
    observations: Annotated[list[Sentence], Field(max_length=10)]
