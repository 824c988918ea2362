"""The daily audit: what it says, how it looks to hostile names, and how a real SMTP server gets it, or refuses it."""

from __future__ import annotations

import ssl
from datetime import UTC, date, datetime, timedelta
from email.message import EmailMessage
from html.parser import HTMLParser
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import psycopg
import pytest
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import example, given
from hypothesis import strategies as st
from mail_rig import Inbox, smtp_server
from typer.testing import CliRunner

from ssmd_api.cli.main import app
from ssmd_core.errors import ConfigError
from ssmd_core.mail.render import Mail, Section, mail
from ssmd_core.mail.smtp import MailError, SmtpSettings, send

PASSWORD = "hunter2-the-password"
A_MAIL = Mail("[ssmd] audit", "<p>html</p>", "text")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that nobody has signed, and its key."""
    folder = tmp_path_factory.mktemp("tls")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    paths = folder / "cert.pem", folder / "key.pem"
    paths[0].write_bytes(made.public_bytes(serialization.Encoding.PEM))
    plain = serialization.NoEncryption()
    paths[1].write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, plain)
    )
    return paths


def with_login(certificate: tuple[Path, Path] | None, password: str = PASSWORD) -> dict[str, Any]:
    def check(server: SMTP, session: Session, envelope: Envelope, mechanism: str, data: Any) -> AuthResult:
        right = isinstance(data, LoginPassword) and data.password == password.encode()
        return AuthResult(success=right, handled=False)

    options: dict[str, Any] = {"authenticator": check, "auth_required": True}
    if certificate is None:
        return {**options, "auth_require_tls": False}
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    return {**options, "tls_context": context, "require_starttls": True}


def settings(port: int, *, user: str = "", to: str = "ops@example.com") -> SmtpSettings:
    given = {"SMTP_HOST": "127.0.0.1", "SMTP_PORT": str(port), "SMTP_TO": to, "SMTP_FROM": "ssmd@example.com"}
    return SmtpSettings.from_environment(given | ({"SMTP_USER": user, "SMTP_PASS": PASSWORD} if user else {}))


def test_a_relay_without_login_takes_it() -> None:
    inbox = Inbox()
    with smtp_server(inbox) as port:
        send(A_MAIL, settings(port, to="ops@example.com, cto@example.com"))
    (got,) = inbox.mails
    assert (got["Subject"], got["From"], got["To"]) == (
        "[ssmd] audit",
        "ssmd@example.com",
        "ops@example.com, cto@example.com",
    )
    assert got["Auto-Submitted"] == "auto-generated"
    assert [part.get_content_type() for part in got.iter_parts()] == ["text/plain", "text/html"]
    assert inbox.envelopes[0].rcpt_tos == ["ops@example.com", "cto@example.com"]


@pytest.mark.filterwarnings("ignore:Requiring AUTH while not requiring TLS")  # that server is the point
def test_a_login_goes_over_tls_only(
    certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    inbox = Inbox()
    with smtp_server(inbox, **with_login(certificate)) as port:
        # Nobody vouches for that certificate …
        with pytest.raises(MailError, match="no TLS: CERTIFICATE_VERIFY_FAILED"):
            send(A_MAIL, settings(port, user="me"))
        # … until somebody does.
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
        send(A_MAIL, settings(port, user="me"))
    assert len(inbox.mails) == 1
    with (
        smtp_server(inbox, **with_login(certificate, "another")) as port,
        pytest.raises(MailError, match=r"refuses the login of me \(535\)") as error,
    ):
        send(A_MAIL, settings(port, user="me"))
    assert PASSWORD not in str(error.value)
    with (
        smtp_server(inbox, **with_login(None)) as port,
        pytest.raises(MailError, match="offers no TLS, and the password is not sent"),
    ):
        send(A_MAIL, settings(port, user="me"))
    assert len(inbox.mails) == 1
    said = capfd.readouterr()
    assert PASSWORD not in said.out + said.err
    assert PASSWORD not in repr(settings(25, user="me"))


def test_what_a_server_refuses_is_told() -> None:
    inbox = Inbox()
    with smtp_server(inbox) as port:
        inbox.refuse = {"gone@example.com"}
        with pytest.raises(MailError, match=r"refuses to deliver to gone@example\.com \(550\)"):
            send(A_MAIL, settings(port, to="gone@example.com"))
        with pytest.raises(MailError, match=r"delivers to some only, not to gone@example\.com"):
            send(A_MAIL, settings(port, to="gone@example.com,ops@example.com"))
        inbox.answer = "554 \x1b[31mspam"
        with pytest.raises(MailError, match="refuses the mail: 554") as error:
            send(A_MAIL, settings(port))
        assert "\x1b" not in str(error.value)
    with pytest.raises(MailError, match=f"127.0.0.1:{port}: .*refused"):
        send(A_MAIL, settings(port))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"SMTP_HOST": ""}, "SMTP_HOST not set"),
        ({"SMTP_TO": ""}, "SMTP_TO not set"),
        ({"SMTP_TO": "a@example.com\r\nBcc: b@example.com"}, "is not an address"),
        ({"SMTP_FROM": "me <me@example.com>"}, "is not an address"),
        ({"SMTP_TO": ","}, "is not an address"),
        ({"SMTP_PORT": "http"}, "is not a port"),
        ({"SMTP_USER": "me"}, "belong together"),
        ({"SMTP_FROM": ""}, "SMTP_FROM is not set"),
    ],
)
def test_settings_that_cannot_be_used(change: dict[str, str], said: str) -> None:
    good = {"SMTP_HOST": "mail.example.com", "SMTP_TO": "a@example.com", "SMTP_FROM": "b@example.com"}
    with pytest.raises(ConfigError, match=said):
        SmtpSettings.from_environment(good | change)


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


@given(st.text(max_size=60), st.text(max_size=60))
@example("x", "\u20280")
@example("x", "a\x85b\x1cc\u2029d")
def test_no_name_becomes_markup_or_a_header(name: str, title: str) -> None:
    def tags(of: str) -> list[str]:
        parser = _Tags()
        parser.feed(of)
        return parser.tags

    made = mail(f"[ssmd] {title}", title, [Section("Keys", 1, ("user",), [(name,)])], "end", max_rows=10)
    assert tags(made.html) == tags(mail("", "", [Section("Keys", 1, ("user",), [("x",)])], "", max_rows=10).html)
    assert not {"\r", "\n"} & set(made.subject)
    EmailMessage()["Subject"] = made.subject


def test_long_tables_say_what_they_leave_out() -> None:
    made = mail("s", "t", [Section("Keys", 7, ("n",), [(n,) for n in range(7)])], "end", max_rows=5)
    for part in (made.html, made.text):
        assert "and 2 more rows" in part


DAY = date(2026, 11, 20)


@pytest.fixture
def audited(database_url: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A database with keys and accesses around 2026-11-20; it is 2026-11-21T08:00Z."""
    monkeypatch.setenv("DATABASE_URL", database_url)
    monkeypatch.setenv("SSMD_CLOCK", "2026-11-21T08:00:00Z")
    insert = (
        "INSERT INTO api_keys (id, user_id, user_email, key_prefix, key_hash, name, scopes, allowed_feeds, created_at, "
        "expires_at, revoked_at) VALUES (%s, %s, %s, %s, 'x', %s, '{datasets:read}', '{kalshi}', %s, %s, %s)"
    )
    with psycopg.connect(database_url, autocommit=True) as connection:
        long_ago = datetime(2026, 1, 1, tzinfo=UTC)
        for number, (prefix, name, expires, revoked) in enumerate(
            [
                ("sk_live_active00", "<script>alert(1)</script>", None, None),
                ("sk_live_expired0", "late", datetime(2026, 11, 18, tzinfo=UTC), None),
                ("sk_live_older000", "older", datetime(2026, 11, 1, tzinfo=UTC), None),
                ("sk_live_revoked0", "gone", None, datetime(2026, 11, 2, tzinfo=UTC)),
            ]
        ):
            user = f"user{number}@example.com"
            connection.execute(insert, (str(number), user, user, prefix, name, long_ago, expires, revoked))
        log = (
            "INSERT INTO data_access_log (key_prefix, user_email, feed, date_from, date_to, msg_type, files_count, "
            "route, created_at) VALUES ('sk_live_active00', 'user0@example.com', %s, %s, %s, %s, 3, '/v1/data/x', %s)"
        )
        for feed, message_type, moment in [
            ("kalshi", "trade", "2026-11-20T00:00:00Z"),
            ("kalshi", "trade", "2026-11-20T23:59:59.999Z"),
            ("kraken", None, "2026-11-20T12:00:00Z"),
            ("polymarket", None, "2026-11-19T23:59:59Z"),
            ("kraken-futures", None, "2026-11-21T00:00:00Z"),
        ]:
            connection.execute(log, (feed, DAY, DAY, message_type, moment))
        connection.execute("INSERT INTO api_usage_daily VALUES ('sk_live_active00', %s, 1234, 5, 99)", (DAY,))
        connection.execute("INSERT INTO llm_usage_daily VALUES ('sk_test_other000', %s, 'm', 2, 100, 50, 0.25)", (DAY,))
    return database_url


def run(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["audit-email", *arguments])


def test_the_audit_of_yesterday(audited: str, tmp_path: Path) -> None:
    """Both bounds hold; equal accesses are counted together; names are text."""
    path = tmp_path / "audit.html"
    answer = run("--preview", str(path))
    assert answer.exit_code == 0, answer.output
    assert "3 accesses on 2026-11-20, 1 active keys" in answer.output
    page = path.read_text()
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
    parser = _Tags()
    parser.feed(page)
    assert parser.tags.count("table") == 4
    for present in ("kalshi", "kraken", "trade", "all", "sk_live_expired0", "1,234", "0.25", "sk_test_other000"):
        assert present in parser.text
    for absent in ("polymarket", "kraken-futures", "sk_live_older000", "sk_live_revoked0"):
        assert absent not in parser.text
    assert "color-scheme" in page
    other_day = run("--preview", str(path), "--day", "2026-11-21")
    assert "1 accesses on 2026-11-21" in other_day.output


def test_the_audit_is_sent(audited: str, monkeypatch: pytest.MonkeyPatch) -> None:
    inbox = Inbox()
    with smtp_server(inbox) as port:
        for name, value in {"HOST": "127.0.0.1", "PORT": str(port), "TO": "ops@example.com", "FROM": "a@b.c"}.items():
            monkeypatch.setenv(f"SMTP_{name}", value)
        answer = run()
        assert answer.exit_code == 0, answer.output
        assert "sent to ops@example.com" in answer.output
    (got,) = inbox.mails
    assert got["Subject"] == "[ssmd] data access audit 2026-11-20"
    text = got.get_body(("plain",)).get_content()  # type: ignore[union-attr]
    assert "Data access (3)" in text
    assert run().exit_code == 1  # the server is gone


@pytest.mark.parametrize(("arguments", "said"), [((), "SMTP_HOST and SMTP_TO not set"), (("--day", "x"), "--day 'x'")])
def test_without_settings_nothing_is_asked(
    arguments: tuple[str, ...], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("SMTP_HOST", "SMTP_TO"):
        monkeypatch.delenv(name, raising=False)
    answer = run(*arguments)
    assert answer.exit_code == 2
    assert said in answer.output
