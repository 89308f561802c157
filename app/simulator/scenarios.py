"""What happens between a user, Alipay and a merchant, told as data: who does what, and which answer is right.

The names in a scenario stand for values that no two runs share: the player puts a mark on each of them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from types import MappingProxyType

from app.simulator.draft import Draft, authcode_created, token_canceled, token_created
from app.simulator.forgery import Forgery
from app.simulator.sender import Result

ACKNOWLEDGED = Result(HTTPStatus.OK, "S", "SUCCESS")
NOT_AUTHENTIC = Result(HTTPStatus.UNAUTHORIZED, "F", "INVALID_SIGNATURE")
UNKNOWN_CLIENT = Result(HTTPStatus.UNAUTHORIZED, "F", "UNKNOWN_CLIENT")
UNKNOWN_KEY = Result(HTTPStatus.UNAUTHORIZED, "F", "KEY_NOT_FOUND")
MALFORMED = Result(HTTPStatus.BAD_REQUEST, "F", "PARAM_ILLEGAL")

CONSULTED = "consulted"
AUTHCODE_ISSUED = "authcode_issued"
TOKEN_ACTIVE = "token_active"  # noqa: S105 - a state, not a password
CANCELED = "canceled"

#: The states that a user of Auto Debit who stays until they cancel goes through.
WHOLE_LIFE = (CONSULTED, AUTHCODE_ISSUED, TOKEN_ACTIVE, CANCELED)


@dataclass(frozen=True, slots=True)
class Deliver:
    """Alipay delivers a notification once, well signed unless it is a forgery."""

    draft: Draft
    expected: Result = ACKNOWLEDGED
    forgery: Forgery | None = None


@dataclass(frozen=True, slots=True)
class Consult:
    """The merchant registers a consult: from now on the authState is known."""

    auth_state: str
    flow: str = "auto_debit"
    user: str = "user"
    #: The state afterwards: not always the first, since notifications may have been waiting.
    expected: str = CONSULTED


@dataclass(frozen=True, slots=True)
class Report:
    """The merchant reports what it learned itself: a code, a token, a revoke."""

    auth_state: str
    #: The last part of the address: `authcode`, `tokens` or `canceled`.
    what: str
    expected: str
    secrets: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True, slots=True)
class LookUp:
    """The merchant reads the history: the states, in order, that the authorization has been in."""

    auth_state: str
    expected: tuple[str, ...]


Step = Deliver | Consult | Report | LookUp


@dataclass(frozen=True, slots=True)
class Scenario:
    """A story with a name: its steps happen one after the other, each answered before the next."""

    name: str
    story: str
    steps: tuple[Step, ...]


_SCENARIOS = (
    Scenario(
        "full-life",
        "A user authorizes, and later cancels in the wallet.",
        (
            Consult("full-life"),
            Deliver(authcode_created("full-life", "code")),
            Deliver(token_created("full-life", "token")),
            Deliver(token_canceled("token", reason="I have moved, and there is no gym.")),
            LookUp("full-life", WHOLE_LIFE),
        ),
    ),
    Scenario(
        "direct",
        "EasySafePay: a token at once, without a code before it.",
        (
            Consult("direct", flow="direct"),
            Deliver(token_created("direct", "token")),
            Deliver(token_canceled("token")),
            LookUp("direct", (CONSULTED, TOKEN_ACTIVE, CANCELED)),
        ),
    ),
    Scenario(
        "redelivery",
        "Alipay sends again and again; each takes effect once.",
        (
            Consult("redelivery"),
            *[Deliver(authcode_created("redelivery", "code"))] * 2,
            *[Deliver(token_created("redelivery", "token"))] * 3,
            *[Deliver(token_canceled("token"))] * 2,
            Deliver(authcode_created("redelivery", "code")),
            LookUp("redelivery", WHOLE_LIFE),
        ),
    ),
    Scenario(
        "wrong-order",
        "Everything arrives backwards, and before the consult.",
        (
            Deliver(token_canceled("token")),
            Deliver(token_created("wrong-order", "token")),
            Deliver(authcode_created("wrong-order", "code")),
            Consult("wrong-order", expected=CANCELED),
            LookUp("wrong-order", WHOLE_LIFE),
        ),
    ),
    Scenario(
        "illegal",
        "A second code when there is a token: no effect.",
        (
            Consult("illegal"),
            Deliver(authcode_created("illegal", "code")),
            Deliver(token_created("illegal", "token")),
            Deliver(authcode_created("illegal", "other-code")),
            LookUp("illegal", (CONSULTED, AUTHCODE_ISSUED, TOKEN_ACTIVE)),
        ),
    ),
    Scenario(
        "forgery",
        "What Alipay did not sign is refused; the real one is not.",
        (
            Consult("forgery"),
            Deliver(authcode_created("forgery", "code"), NOT_AUTHENTIC, Forgery.STRANGER),
            Deliver(authcode_created("forgery", "code"), NOT_AUTHENTIC, Forgery.TAMPERED),
            Deliver(authcode_created("forgery", "code"), UNKNOWN_CLIENT, Forgery.UNKNOWN_CLIENT),
            Deliver(authcode_created("forgery", "code"), UNKNOWN_KEY, Forgery.UNKNOWN_KEY),
            LookUp("forgery", (CONSULTED,)),
            Deliver(authcode_created("forgery", "code")),
            LookUp("forgery", (CONSULTED, AUTHCODE_ISSUED)),
        ),
    ),
    Scenario(
        "malformed",
        "Authentic, but without its code: refused, and again.",
        (
            Consult("malformed"),
            *[Deliver(Draft("AUTHCODE_CREATED", auth_state="malformed"), MALFORMED)] * 2,
            LookUp("malformed", (CONSULTED,)),
        ),
    ),
    Scenario(
        "re-authorization",
        "A user authorizes anew; then the old token is canceled.",
        (
            Consult("old"),
            Deliver(authcode_created("old", "old-code")),
            Deliver(token_created("old", "old-token")),
            Consult("new"),
            Deliver(authcode_created("new", "new-code")),
            Deliver(token_created("new", "new-token")),
            Deliver(token_canceled("old-token")),
            LookUp("old", WHOLE_LIFE),
            LookUp("new", (CONSULTED, AUTHCODE_ISSUED, TOKEN_ACTIVE)),
        ),
    ),
    Scenario(
        "merchant-reports",
        "The merchant knows first: code, token, refresh and revoke.",
        (
            Consult("reports"),
            Report("reports", "authcode", AUTHCODE_ISSUED, {"authCode": "code"}),
            Report("reports", "tokens", TOKEN_ACTIVE, {"accessToken": "token", "authCode": "code"}),
            Deliver(authcode_created("reports", "code")),
            Deliver(token_created("reports", "token")),
            Report("reports", "tokens", TOKEN_ACTIVE, {"accessToken": "refreshed", "replaces": "token"}),
            Deliver(token_canceled("token")),
            LookUp("reports", (CONSULTED, AUTHCODE_ISSUED, TOKEN_ACTIVE, TOKEN_ACTIVE)),
            Report("reports", "canceled", CANCELED),
            Deliver(token_canceled("refreshed")),
            LookUp("reports", (CONSULTED, AUTHCODE_ISSUED, TOKEN_ACTIVE, TOKEN_ACTIVE, CANCELED)),
        ),
    ),
    Scenario(
        "unknown-type",
        "A type of a later release is stored for it.",
        (
            Consult("unknown-type"),
            Deliver(replace(token_canceled("token"), type="TOKEN_SUSPENDED")),
            LookUp("unknown-type", (CONSULTED,)),
        ),
    ),
)

SCENARIOS: Mapping[str, Scenario] = {scenario.name: scenario for scenario in _SCENARIOS}
