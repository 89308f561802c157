"""`flask authorizations record`: report a code, a token or a revoke. Secrets come from stdin."""

from collections.abc import Callable, Mapping
from datetime import datetime
from uuid import UUID

import click
from flask.cli import AppGroup

from app.alipay.token_answer import read_login_id, read_time
from app.cli import options
from app.cli.authorizations.finding import find_one, name_argument
from app.cli.authorizations.reporting import record_and_print
from app.cli.current_service import look_up
from app.cli.stdin import Question, StdinError, ask
from app.reports import REASON_CHARACTERS_MAX, AuthcodeReport, CanceledReport, Report, TokenReport
from app.secret import Secret
from app.tokens import Grant

#: The help of all three commands.
_FORMAT = """\b
Secrets are read from stdin, never from the command line, where others see them:
  one line with the {first},
  or a JSON object with {names}.
On a terminal they are asked for and not shown.
"""

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


_expires_at = click.option(
    "--expires-at", metavar="TIME", type=options.AwareTime(), help="When the access token expires."
)
_refresh_expires_at = click.option(
    "--refresh-expires-at", metavar="TIME", type=options.AwareTime(), help="When the refresh token expires."
)


record = AppGroup("record", help="Report a code, a token or a revoke that the merchant learned itself.")


@record.command(epilog=_FORMAT.format(first="auth code", names="authCode"))
@name_argument
@options.client
def authcode(name: str, client_id: str | None) -> None:
    """Report the auth code that the redirect brought."""
    told = ask((_AUTH_CODE,))
    _record(name, client_id, lambda found: AuthcodeReport(found, Secret(told["authCode"])))


@record.command(epilog=_FORMAT.format(first="access token", names=_GRANT_FIELDS))
@name_argument
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
@name_argument
@options.client
@click.option("--with-reason", is_flag=True, help="Read your reason from stdin: it may name a person.")
def canceled(name: str, client_id: str | None, *, with_reason: bool) -> None:
    """Report a revoke that succeeded. Stdin is left alone, unless --with-reason is given."""
    reason = _secret(ask((_REASON,)), "reason") if with_reason else None
    _record(name, client_id, lambda found: CanceledReport(found, reason))


def _record(name: str, client_id: str | None, report: Callable[[UUID], Report]) -> None:
    authorization = look_up(lambda session: find_one(session, name, client_id))
    record_and_print(report(authorization.id), authorization.auth_state)


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
