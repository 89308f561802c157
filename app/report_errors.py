"""Say why a report cannot be recorded. Each error is an answer of status 409, 404 or 422 and has no secret in it."""

from collections.abc import Collection, Mapping
from typing import ClassVar
from uuid import UUID

from app.state_machine import AuthorizationState, Event

#: What helps where a report is not legal, by the event and the state.
_REMEDIES: Mapping[tuple[str, str], str] = {
    (
        Event.TOKEN_CREATED,
        AuthorizationState.TOKEN_ACTIVE,
    ): "if this is a refresh, name the token it replaces in `replaces`",
    (
        Event.TOKEN_CREATED,
        AuthorizationState.CONSULTED,
    ): "report the auth code first, or name in `authCode` the one that it was exchanged for",
    (Event.TOKEN_CANCELED, AuthorizationState.CONSULTED): "report the token first",
    (Event.TOKEN_CANCELED, AuthorizationState.AUTHCODE_ISSUED): "report the token first",
}
#: The same whatever the event is.
_REMEDIES_IN: Mapping[str, str] = {
    AuthorizationState.CANCELED: "it is canceled for good: a new consent needs a new authState"
}


class ReportRefusedError(Exception):
    """A report cannot be recorded, and nothing was changed."""

    #: What programs may rely on; the message is for people.
    code: ClassVar[str]


class AuthorizationNotFoundError(ReportRefusedError):
    """A report is about an authorization that does not exist."""

    code = "authorization-not-found"

    def __init__(self, authorization_id: UUID) -> None:
        self.authorization_id = authorization_id
        super().__init__(f"There is no authorization {authorization_id}.")


class ClientNotNamedError(ReportRefusedError):
    """A consult does not say for which of several clients it is."""

    code = "client-not-named"

    def __init__(self) -> None:
        super().__init__("The keyring does not have just one client: name one with clientId.")


class ClientNotInKeyringError(ReportRefusedError):
    """A consult is for a client whose notifications could not be verified."""

    code = "client-not-in-keyring"

    def __init__(self, client_id: str, known: Collection[str]) -> None:
        self.client_id = client_id
        self.known = known
        super().__init__("The keyring has no client with this clientId.")


class ContradictionError(ReportRefusedError):
    """A report says otherwise than what is on record."""

    code = "contradiction"


class ConsultContradictedError(ContradictionError):
    """The same authState was consulted before, and otherwise."""

    def __init__(self, field: str) -> None:
        self.field = field
        super().__init__(f"This authState was consulted before with another {field}.")


class ConsultOverError(ContradictionError):
    """A consult is to be made for an authState whose user has agreed already."""

    def __init__(self, state: str) -> None:
        self.state = state
        super().__init__(f"The authorization of this authState is {state}: consult with a new authState.")


class FlowFollowedError(ContradictionError):
    """A consult names a flow, and the authorization has moved in the other."""

    def __init__(self, flow: str, state: str) -> None:
        self.flow = flow
        self.state = state
        super().__init__(f"The flow can no longer be corrected: this authorization is {state} by the flow {flow}.")


class AlreadyCanceledError(ReportRefusedError):
    """A consult names an authState whose authorization has come to its end."""

    code = "canceled"

    def __init__(self) -> None:
        super().__init__("The authorization of this authState is canceled for good: consult with a new authState.")


class TokenContradictedError(ContradictionError):
    """The same token was reported before, and otherwise."""

    def __init__(self) -> None:
        super().__init__("This token is on record with another expiry time or another refresh token.")


class ForeignTokenError(ContradictionError):
    """A reported token is on record for another authorization."""

    def __init__(self) -> None:
        super().__init__("This token belongs to another authorization.")


class NothingToReplaceError(ContradictionError):
    """A refresh is reported of a token that the authorization never had."""

    def __init__(self) -> None:
        super().__init__(
            "The token that was to be replaced is no token of this authorization: name in `replaces` the one that was "
            "refreshed, and report that first if it is not on record."
        )


class ReplacedOtherwiseError(ContradictionError):
    """A refresh is reported of a token that is no longer, or not yet, the one before the reported token."""

    def __init__(self) -> None:
        super().__init__("The token that was to be replaced was followed by another token than this one.")


class TransitionRefusedError(ReportRefusedError):
    """The machine does not allow what a report says."""

    def __init__(self, event: Event, state: str) -> None:
        self.event = event
        self.state = state
        remedy = _REMEDIES.get((event, state)) or _REMEDIES_IN.get(state)
        super().__init__(f"{event} is not legal in {state}{f'; {remedy}' if remedy else ''}.")


class EarlyReportError(TransitionRefusedError):
    """What a report says is not legal yet, and may become so."""

    code = "early"


class IllegalReportError(TransitionRefusedError):
    """What a report says is not legal, and never will be."""

    code = "illegal-transition"


class NoGatewayError(ReportRefusedError):
    """A call is asked for of a client that makes its calls itself."""

    code = "no-gateway"

    def __init__(self, client_id: str) -> None:
        self.client_id = client_id
        super().__init__("This client has no gateway in the keyring: the service makes no calls for it.")


class NoActiveTokenError(ReportRefusedError):
    """A refresh or a revoke is asked for where there is no token that is alive."""

    code = "no-active-token"

    def __init__(self, state: str, *, is_revoke_asked: bool = False) -> None:
        self.state = state
        why = "its revoke was asked for" if is_revoke_asked else f"the state is {state}"
        super().__init__(f"No token is active: {why}.")


class NoRefreshTokenError(ReportRefusedError):
    """A refresh is asked for of a token that came without a refresh token."""

    code = "no-refresh-token"

    def __init__(self) -> None:
        super().__init__("The token came without a refresh token: this wallet does not refresh.")


class CallNotFoundError(ReportRefusedError):
    """There is no such call."""

    code = "call-not-found"

    def __init__(self, call_id: UUID) -> None:
        self.call_id = call_id
        super().__init__(f"There is no call {call_id}.")


class CallNotRepeatableError(ReportRefusedError):
    """A call is to be made once more that has brought what it was to bring, or can bring it no more."""

    code = "call-not-repeatable"

    def __init__(self, status: str, why: str = "") -> None:
        self.status = status
        super().__init__(f"The call is {status}{f', and {why}' if why else ''}: there is nothing to repeat.")
