"""Record what the merchant learned itself, with its secrets from stdin: `flask authorizations record`."""

import json
import sys
from collections.abc import Callable, Mapping, Sequence, Set as AbstractSet
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import click
from typing_extensions import override

from app.alipay.json_text import UnreadableJsonError, json_text
from app.alipay.notification import ACCESS_TOKEN_CHARACTERS_MAX
from app.alipay.token_answer import is_success, read_login_id, read_time, slip_for
from app.cli import options
from app.cli.authorizations import authorizations, find_one, tell_recorded, which
from app.cli.errors import UsageProblem
from app.cli.groups import look_up, operating_user, the_service
from app.cli.tables import plain
from app.reports import REASON_CHARACTERS_MAX, AuthcodeReport, CanceledReport, Report, TokenReport
from app.secret import Secret
from app.tokens import Grant

#: Every secret there is has at most this many characters.
SECRET_CHARACTERS_MAX = ACCESS_TOKEN_CHARACTERS_MAX
#: Four secrets and two times, with every character escaped, take less.
_STDIN_BYTES_MAX = 16 * 1024

#: The three commands read alike.
_FORMAT = """\b
Secrets are read from stdin, never from the command line, where others see them:
  one line with the {first},
  or a JSON object with {names}.
On a terminal they are asked for and not shown.
"""


@dataclass(frozen=True, slots=True)
class Question:
    """One thing that stdin can tell: its name in JSON, and what a person is asked at a terminal."""

    name: str
    prompt: str
    characters_max: int = SECRET_CHARACTERS_MAX


_AUTH_CODE = Question("authCode", "Auth code")
_REASON = Question("reason", "Reason", REASON_CHARACTERS_MAX)
_TOKEN = (
    Question("accessToken", "Access token"),
    Question("refreshToken", "Refresh token (Enter for none)"),
    Question("authCode", "Auth code it was exchanged for (Enter for none)"),
    Question("replaces", "Old access token, if this is a refresh (Enter for none)"),
)
#: No secrets, but of the same JSON object.
_EXPIRY_TIMES = ("accessTokenExpiryTime", "refreshTokenExpiryTime")
_LOGIN_ID = "userLoginId"
_GRANT_FIELDS = """accessToken, and where there is one:
    refreshToken, accessTokenExpiryTime, refreshTokenExpiryTime,
    authCode (it was exchanged for that), replaces (the old access token: a refresh),
    and whatever else applyToken answered"""


class StdinError(UsageProblem):
    """What came from stdin is not what the command needs. Never quotes it."""

    def __init__(self, place: str, problem: str) -> None:
        super().__init__(f"{place} {problem}. See --help for what is read from stdin.")


class AwareTime(click.ParamType[datetime]):
    """A time with its zone, as Alipay writes it."""

    name = "time"

    @override
    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        """Read ISO 8601."""
        time = read_time(str(value))
        if time is None:
            self.fail("it must be ISO 8601 with a zone, such as 2026-11-22T12:00:00+08:00.", param, ctx)
        return time


_expires_at = click.option("--expires-at", metavar="TIME", type=AwareTime(), help="When the access token expires.")
_refresh_expires_at = click.option(
    "--refresh-expires-at", metavar="TIME", type=AwareTime(), help="When the refresh token expires."
)


@authorizations.group()
def record() -> None:
    """Report a code, a token or a revoke that the merchant learned of itself."""


@record.command(epilog=_FORMAT.format(first="auth code", names="authCode"))
@which
@options.client
def authcode(name: str, client_id: str | None) -> None:
    """Report the auth code that the redirect brought."""
    told = ask((_AUTH_CODE,))
    _record(name, client_id, lambda found: AuthcodeReport(found, Secret(told["authCode"])))


@record.command(epilog=_FORMAT.format(first="access token", names=_GRANT_FIELDS))
@which
@options.client
@_expires_at
@_refresh_expires_at
def token(name: str, client_id: str | None, expires_at: datetime | None, refresh_expires_at: datetime | None) -> None:
    """Report the token that applyToken answered with, also after a refresh."""
    told = ask(_TOKEN, also=(*_EXPIRY_TIMES, _LOGIN_ID))
    grant = Grant(
        Secret(told["accessToken"]),
        access_token_expires_at=_expiry(told, "accessTokenExpiryTime", expires_at),
        refresh_token=_secret(told, "refreshToken"),
        refresh_token_expires_at=_expiry(told, "refreshTokenExpiryTime", refresh_expires_at),
    )
    auth_code, replaces = _secret(told, "authCode"), _secret(told, "replaces")
    login_id = read_login_id(told.get(_LOGIN_ID))
    _record(
        name,
        client_id,
        lambda found: TokenReport(found, grant, auth_code=auth_code, replaces=replaces, user_login_id=login_id),
    )


@record.command(epilog=_FORMAT.format(first="reason", names="reason"))
@which
@options.client
@click.option("--with-reason", is_flag=True, help="Read your reason from stdin: it may name a person.")
def canceled(name: str, client_id: str | None, *, with_reason: bool) -> None:
    """Report a revoke that succeeded. Stdin is left alone, unless --with-reason is given."""
    reason = _secret(ask((_REASON,)), "reason") if with_reason else None
    _record(name, client_id, lambda found: CanceledReport(found, reason))


def _record(name: str, client_id: str | None, report: Callable[[UUID], Report]) -> None:
    authorization = look_up(lambda session: find_one(session, name, client_id))
    recorded = the_service().receiver.record(report(authorization.id), cause="shell", by=operating_user())
    tell_recorded(recorded, authorization.auth_state)


# --- stdin -----------------------------------------------------------------------------------------------------------


def ask(questions: Sequence[Question], also: Sequence[str] = ()) -> Mapping[str, str]:
    """Read the answers from stdin, at a terminal one by one; the first question is the one that must be answered.

    Where there is something that it may say `also`, it may be an answer of Alipay's. Raises `StdinError`.
    """
    told: Mapping[str, Any]
    if sys.stdin.isatty():
        told = {
            each.name: click.prompt(each.prompt, default="", hide_input=True, show_default=False) for each in questions
        }
    else:
        told = _read(questions[0].name)
        names = {*(each.name for each in questions), *also}
        _require_known(_without_the_rest(told, names) if also else told, names)
    told = {name: value for name, value in told.items() if isinstance(value, str) and value}
    if questions[0].name not in told:
        raise StdinError(questions[0].name, "is missing")
    for each in questions:
        if len(told.get(each.name, "")) > each.characters_max:
            raise StdinError(each.name, f"has more than {each.characters_max} characters")
    return told


def _read(first: str) -> dict[str, Any]:
    """Read one line, or a JSON object."""
    raw = sys.stdin.buffer.read(_STDIN_BYTES_MAX + 1)
    if len(raw) > _STDIN_BYTES_MAX:
        raise StdinError("Stdin", "is far longer than what was asked for")
    try:
        text = json_text(raw)
    except UnreadableJsonError as error:
        raise StdinError("Stdin", f"is {error.rule}") from None
    if not text.lstrip().startswith("{"):
        line, *more = text.splitlines() or [""]
        if any(more):
            raise StdinError("Stdin", "has several lines, and is not a JSON object")
        return {first: line}
    try:
        return dict(json.loads(text))
    except ValueError:
        raise StdinError("Stdin", "begins like a JSON object, and is not one") from None


def _without_the_rest(told: Mapping[str, Any], names: AbstractSet[str]) -> dict[str, Any]:
    """Pass over what else applyToken answers with, and require that it gave a token."""
    if not is_success(told.get("result")):
        raise StdinError("result", "says that applyToken did not succeed, so there is no token to report")
    return {name: value for name, value in told.items() if name in names or slip_for(name, names) is not None}


def _require_known(told: Mapping[str, Any], names: AbstractSet[str]) -> None:
    for name, value in told.items():
        if name not in names:
            raise StdinError(plain(name), f"is none of {', '.join(sorted(names))}")
        if not isinstance(value, str | None):
            raise StdinError(name, "is not a string")


def _secret(told: Mapping[str, str], name: str) -> Secret | None:
    return Secret(told[name]) if name in told else None


def _expiry(told: Mapping[str, str], name: str, option: datetime | None) -> datetime | None:
    """Take the time from the option, or else from stdin."""
    if option is not None or name not in told:
        return option
    time = read_time(told[name])
    if time is None:
        raise StdinError(name, "is not ISO 8601 with a zone")
    return time
