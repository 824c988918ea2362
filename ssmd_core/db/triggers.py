"""SQL of the functions and triggers that keep `updated_at` honest and history complete, whoever writes.

- An UPDATE that changes none of the watched columns does nothing at all: no row version, no WAL, no CDC event.
- One that does sets `updated_at`.
- Every statement appends the new version of each row that it touched to `{table}_history`; a DELETE or TRUNCATE
  appends a version with `deleted_at`.
- A statement that changed rows tells so on the channel `ssmd_changes`, with the table's name, when it is committed:
  whoever keeps an answer in memory knows when it has become old. A statement that changed nothing says nothing, for a
  notification would cost it a transaction id and a WAL record.
- Versions of a row stand in the order in which they were written, whatever the clock did: one that a fast clock had
  dated after the version that now follows it is dated back to that one's time.

Migrations call these functions with the column lists of their time; `tests/test_migrations.py` compares what stands
in the database with what the present models give.
"""

from __future__ import annotations

from collections.abc import Sequence

#: Channel on which committed changes are told; the payload is the table's name.
CHANGES = "ssmd_changes"

#: Time of the database, or `ssmd.now` where a session has set it: a rehearsal's clock, or a test's.
NOW_FUNCTION = """
CREATE FUNCTION ssmd_now() RETURNS timestamptz LANGUAGE sql VOLATILE PARALLEL SAFE AS
$$ SELECT coalesce(nullif(current_setting('ssmd.now', true), '')::timestamptz, clock_timestamp()) $$
"""

ROW_FUNCTIONS = (
    """
CREATE FUNCTION ssmd_touch() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN NEW.updated_at := ssmd_now(); NEW.created_at := OLD.created_at; RETURN NEW; END $$
""",
    """
CREATE FUNCTION ssmd_skip() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN RETURN NULL; END $$
""",
    """
CREATE FUNCTION ssmd_fixed_key() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN RAISE EXCEPTION 'the key of % cannot be changed: delete the row and insert another', TG_TABLE_NAME; END $$
""",
)
ROW_FUNCTION_NAMES = ("ssmd_touch", "ssmd_skip", "ssmd_fixed_key")


def row_triggers(table: str, key: str, columns: Sequence[str]) -> list[str]:
    """Triggers for every updated row: skip what changes nothing, stamp what does, refuse another key."""
    old = ", ".join(f"OLD.{name}" for name in columns)
    new = ", ".join(f"NEW.{name}" for name in columns)
    differs = f"({old}) IS DISTINCT FROM ({new})"
    # Triggers of one event fire by name.
    return [
        f"CREATE TRIGGER {table}_1_key BEFORE UPDATE ON {table} FOR EACH ROW "
        f"WHEN (OLD.{key} <> NEW.{key}) EXECUTE FUNCTION ssmd_fixed_key()",
        f"CREATE TRIGGER {table}_2_skip BEFORE UPDATE ON {table} FOR EACH ROW "
        f"WHEN (NOT ({differs})) EXECUTE FUNCTION ssmd_skip()",
        f"CREATE TRIGGER {table}_3_touch BEFORE UPDATE ON {table} FOR EACH ROW "
        f"WHEN ({differs}) EXECUTE FUNCTION ssmd_touch()",
    ]


def history_function(table: str, key: str, columns: Sequence[str], effective: str | None) -> str:
    """The function behind the table's history triggers.

    Args:
        columns: kept columns; one of them is `deleted_at`.
        effective: column with the venue's own time of the change.
    """
    kept = [key, *columns]
    names = ", ".join(kept)
    gone = ", ".join("now_" if name == "deleted_at" else name for name in kept)
    time = effective or "NULL::timestamptz"
    notify = f"IF FOUND THEN PERFORM pg_notify('{CHANGES}', '{table}'); END IF;"
    into = f"INSERT INTO {table}_history ({names}, effective_at, known_from)"
    date_back = (
        f"UPDATE {table}_history h SET known_from = now_ WHERE h.known_from > now_ AND h.{key} IN (SELECT {key} FROM"
    )
    # A row's own time of change is the time of its last version, so most statements need not look into history.
    return f"""
CREATE OR REPLACE FUNCTION {table}_keep() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE now_ timestamptz := ssmd_now();
BEGIN
  IF TG_OP = 'TRUNCATE' THEN
    {date_back} {table});
    {into} SELECT {gone}, {time}, now_ FROM {table} WHERE deleted_at IS NULL;
    {notify}
  ELSIF TG_OP = 'DELETE' THEN
    IF EXISTS (SELECT FROM old_rows WHERE updated_at > now_) THEN {date_back} old_rows); END IF;
    {into} SELECT {gone}, {time}, now_ FROM old_rows WHERE deleted_at IS NULL;
    {notify}
  ELSIF TG_OP = 'UPDATE' THEN
    IF EXISTS (SELECT FROM old_rows WHERE updated_at > now_) THEN {date_back} old_rows); END IF;
    {into} SELECT {names}, {time}, now_ FROM new_rows;
    {notify}
  ELSE
    {date_back} new_rows);
    {into} SELECT {names}, {time}, now_ FROM new_rows;
    {notify}
  END IF;
  RETURN NULL;
END $$
"""


def history_triggers(table: str) -> list[str]:
    """Triggers for every statement: see the module."""
    new, old = "REFERENCING NEW TABLE AS new_rows", "REFERENCING OLD TABLE AS old_rows"
    both = f"{new} OLD TABLE AS old_rows"
    return [
        f"CREATE TRIGGER {table}_keep_insert AFTER INSERT ON {table} {new} EXECUTE FUNCTION {table}_keep()",
        f"CREATE TRIGGER {table}_keep_update AFTER UPDATE ON {table} {both} EXECUTE FUNCTION {table}_keep()",
        f"CREATE TRIGGER {table}_keep_delete AFTER DELETE ON {table} {old} EXECUTE FUNCTION {table}_keep()",
        f"CREATE TRIGGER {table}_keep_truncate BEFORE TRUNCATE ON {table} EXECUTE FUNCTION {table}_keep()",
    ]


NOTIFY_FUNCTION = f"""
CREATE FUNCTION ssmd_notify() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN PERFORM pg_notify('{CHANGES}', TG_TABLE_NAME); RETURN NULL; END $$
"""


def notify_trigger(table: str, columns: Sequence[str]) -> str:
    """The trigger that tells of changes in a table without history.

    Args:
        columns: an UPDATE of others is not told.
    """
    return (
        f"CREATE TRIGGER {table}_notify AFTER INSERT OR DELETE OR TRUNCATE OR UPDATE OF {', '.join(columns)} "
        f"ON {table} FOR EACH STATEMENT EXECUTE FUNCTION ssmd_notify()"
    )


def trigger_names(table: str) -> list[str]:
    """Names of all triggers of a table."""
    rows = [f"{table}_{name}" for name in ("1_key", "2_skip", "3_touch")]
    return [*rows, *(f"{table}_keep_{event}" for event in ("insert", "update", "delete", "truncate"))]
