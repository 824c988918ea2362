"""What each reason of a degraded hour means, where it usually comes from, and what to do about it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Advice(NamedTuple):
    """What is known of a kind of trouble.

    Attributes:
        rank: the lower, the more it harms; of kinds in as many hours this one is told first.
        issue: what is wrong, before "in 3 hours".
        cause: what it usually is.
        action: what to do.
    """

    rank: int
    issue: str
    cause: str
    action: str


#: By the code of a reason in a ledger; `missing` stands for the word of an hour, `low_score` for one without a reason.
ADVICE: Mapping[str, Advice] = {
    "missing": Advice(
        0,
        "nothing was archived",
        "the connector, NATS or the archiver was not running, or the disk was full",
        "look at `ssmd status` and at the connector's and the archiver's logs of these hours; what NATS still holds is "
        "archived as soon as the archiver runs, the rest only the venue may have",
    ),
    "messages_lost": Advice(
        1,
        "messages were received and are not in the archive",
        "NATS discarded them before the archiver took them (a limit of the stream), or its store was lost",
        "compare the stream's limits with the archiver's lag; `ssmd health trades` fetches the trades that are missing",
    ),
    "ordinals_missing": Advice(
        2,
        "numbers are missing in what a connection published",
        "a batch was lost between the connector and NATS, or an archive file was changed",
        "run `ssmd verify` on the day; if its files are whole, look for a lost spool in the connector's log",
    ),
    "slots_missing": Advice(
        3,
        "quarters of the hour have no archive file",
        "the archiver was restarted or could not write",
        "look at the archiver's log and the free disk space; messages that are still in NATS are archived on restart",
    ),
    "not_connected": Advice(
        4,
        "connections were closed or mute for a time",
        "the venue closed them, sent nothing or was in maintenance, the network failed, or the connector was restarted",
        "compare the closing reasons in the connector's log with the venue's status page; `ssmd health trades` fetches "
        "the trades that are missing, order books cannot be had again",
    ),
    "refused": Advice(
        5,
        "the venue refused subscriptions",
        "instruments that no longer exist, more of them on a connection than the venue allows, or a key without access",
        "read the refusals in the connector's log, sync the security master, and lower the shard size if it is a limit",
    ),
    "not_acknowledged": Advice(
        6,
        "subscriptions were asked for and not acknowledged",
        "the venue dropped the command, or the connection was too busy to confirm it in time",
        "restart the connector if it does not recover, and lower its number of instruments on a connection",
    ),
    "untrusted": Advice(
        7,
        "order books must not be trusted for a time",
        "messages were lost on the way from the venue, so that its sequence or checksum no longer fits",
        "leave the exported untrusted intervals out of any use of the books; they heal with the next snapshot",
    ),
    "checks_failed": Advice(
        8,
        "checksums, sequences or best prices did not fit",
        "messages lost or changed on the way from the venue, or a change of its rule",
        "open the evidence of one failed check; if all instruments fail at once, the venue changed its rule",
    ),
    "drift": Advice(
        9,
        "the venue's message format changed",
        "the venue released a new version of its API",
        "compare the change with the registry's schema of the type and add the new generation; nothing is lost in the "
        "archive, and the hours can be built again",
    ),
    "null_column": Advice(
        10,
        "a column is null that used to have values",
        "the venue renamed or dropped a member",
        "add the new path to the column's sources in the registry and build the hours again",
    ),
    "rejects": Advice(
        11,
        "messages break their schema",
        "the venue's format changed, or it sent damaged messages",
        "read the reasons in the rejects file of the hour; after a change of the schema build the hours again",
    ),
    "live_count_differs": Advice(
        12,
        "the archive holds another number of messages than the connection counted",
        "a batch was lost or archived twice",
        "run `ssmd verify` on the day and compare the minute summaries with the ledger's minutes",
    ),
    "clock_offset": Advice(
        13,
        "the clock differs from the venue's",
        "the machine's time is not synchronised, or the venue's is not",
        "check the time synchronisation of the machine; receive times of these hours are off by that much",
    ),
    "no_control_events": Advice(
        14,
        "the archive holds no events of its connections",
        "it was captured by a version that wrote none, or they were filtered out",
        "update the connector; without its events a gap cannot be told from silence",
    ),
    "carried_state_missing": Advice(
        15,
        "the state of the hour before was not there",
        "the hour before was not proved",
        "prove the hours in order; books are unverifiable until their next snapshot",
    ),
    "low_score": Advice(
        16,
        "the score is low and no reason is given",
        "rows that break their schema, columns that are null or rows that come twice",
        "open the components of the hour's score, its rejects and its null rates",
    ),
}
TRADES = Advice(
    3,
    "trades are missing",
    "messages were lost on the way, or the connection was down while they were made",
    "fetch the missing trades into the backfill with `ssmd health trades FEED --hour YYYY-MM-DD-HH:00`, and see with "
    "`ssmd ledger show` whether the connection was down",
)
OTHER_TRADES = Advice(
    4,
    "trades differ from the venue's",
    "the venue corrected or withdrew them afterwards, or their fields are read wrongly",
    "compare both sides with `ssmd health trades FEED --hour YYYY-MM-DD-HH:00 --detailed`",
)
UNKNOWN = Advice(17, "another reason is given", "not known to this version", "open the hour with `ssmd ledger show`")

#: What a low component of a score says, for hours without a reason.
COMPONENTS: Mapping[str, tuple[str, str]] = {
    "connector": ("few or old messages came", "look at the connector's health and at the venue's status"),
    "coverage": (
        "not all that was asked for was held",
        "look at refusals and closed connections with `ssmd ledger show`",
    ),
    "integrity": ("checks of the venue's sequences and checksums failed", "open the untrusted intervals of the day"),
    "completeness": ("fewer messages or hours than on the days before", "compare the gaps with the connector's log"),
    "parquet": ("datasets are missing, empty or do not fit their schema", "build the hours again and read the rejects"),
    "sla": ("hours without data, or old files", "look at the archiver and at the hourly runs of Dagster"),
    "archive": ("the archive has not grown", "look at the archiver's log and at the free disk space"),
    "funding": ("few or old snapshots of funding rates", "look at the funding-rates daemon"),
}
