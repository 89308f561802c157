"""Explain in one sentence why an inbox entry has its outcome."""

from app.alipay.notification import NotificationType
from app.authorizations import can_correct_flow
from app.cli.tables import plain
from app.inbox import can_be_consulted
from app.models import Authorization, InboxEntry
from app.state_machine import AuthorizationState, Event, Flow, decide
from app.vocabulary import Outcome, Reason

#: Why an entry of this type changed nothing.
_SUBJECTS = {
    NotificationType.AUTHCODE_CREATED: "this auth code is on record already",
    NotificationType.TOKEN_CREATED: "this token is on record already",
    NotificationType.TOKEN_CANCELED: "the authorization was canceled already",
}


_UNCONSULTED = "no consult with this authState is registered; it is processed as soon as one is"
_NEVER_CONSULTED = (
    "its authState contains half a character (a lone surrogate), which no consult can name, so nothing will ever"
    " resume it; a test, or a bug of the sender's, may have made it"
)


def explain(entry: InboxEntry, authorization: Authorization | None) -> str:
    """Explain an entry, with the authorization that it is linked to; the state that counted is the one it found."""
    return f"{entry.outcome}: {_why(entry, authorization)}."


def _why(entry: InboxEntry, authorization: Authorization | None) -> str:
    match entry.outcome:
        case Outcome.APPLIED:
            return _applied(entry, authorization)
        case Outcome.FAILED:
            return _failed(entry)
        case Outcome.DISMISSED:
            again = f"flask inbox process {entry.id}"
            return f"an operator said of it: {plain(entry.reason)}; it waits for nothing any more, until: {again}"
        case Outcome.MALFORMED:
            field, _, rule = (entry.reason or "").partition(": ")
            return f"{field} is {rule}, so it could not be understood, and was answered with 400"
        case _:
            return _reasons(entry, authorization).get(entry.reason or "", f"the reason is {plain(entry.reason)}")


def _applied(entry: InboxEntry, authorization: Authorization | None) -> str:
    if authorization is None or not authorization.is_understood:
        return "it moved the authorization"
    state = entry.found_state
    # A newer release may have written other words.
    if not isinstance(state, AuthorizationState) or not isinstance(entry.type, NotificationType):
        return "it moved the authorization"
    event = Event(entry.type.lower())
    if event is Event.AUTHCODE_CREATED and state is AuthorizationState.AUTHCODE_ISSUED:
        return f"{entry.type} brought another auth code; the one that was received last is the one that is given out"
    reached = decide(state, event, authorization.current_flow).next_state
    return f"{entry.type} moved the authorization from {state} to {reached}"


def _failed(entry: InboxEntry) -> str:
    broke = f"processing broke with {plain(entry.reason)}"
    if entry.reason == "NotProcessed":
        broke = "it was stored and not processed"
    return f"{broke}; the next redelivery processes it again, and so does: flask inbox process {entry.id}"


def _reasons(entry: InboxEntry, authorization: Authorization | None) -> dict[str, str]:
    """Explain each reason, for this entry."""
    kind, state = plain(entry.type), entry.found_state
    flow = "" if authorization is None or authorization.flow == Flow.AUTO_DEBIT else " in the direct flow"
    wrong_flow = "" if authorization is None else _wrong_flow(authorization)
    subject = _SUBJECTS[entry.type] if isinstance(entry.type, NotificationType) else None
    return {
        Reason.ALREADY_KNOWN: f"{subject or 'it says what is so already'}, so {kind} changed nothing",
        Reason.SUPERSEDED_TOKEN: "a refresh had replaced this token, so its cancellation says nothing of the new one",
        Reason.UNKNOWN_AUTH_STATE: _UNCONSULTED if can_be_consulted(entry.auth_state) else _NEVER_CONSULTED,
        Reason.UNKNOWN_TOKEN: "no creation or refresh of this token is applied; it is processed as soon as one is",
        Reason.EARLY: f"{kind} is not legal in {state}, but in a state that can still be reached{flow}; it is processed"
        f" when the authorization advances{wrong_flow}",
        Reason.UNKNOWN_TYPE: f"this version does not know the type {kind}; after an upgrade that does, run:"
        f" flask inbox process {entry.id}",
        Reason.ILLEGAL_TRANSITION: f"{kind} is not legal in {state}{flow}, and no state that can still be reached"
        f" allows it{wrong_flow}",
        Reason.CONTRADICTION: f"{kind} was legal in {state}, but its token belongs to another authorization",
        Reason.ERASED: "its user was forgotten before it was processed, and its body is gone",
        Reason.UNSUCCESSFUL_RESULT: "its resultStatus is not S, and only a success moves an authorization",
    }


def _wrong_flow(authorization: Authorization) -> str:
    """Say how to correct a flow that no consult named, as long as that can be done."""
    if authorization.flow_was_said or not authorization.is_understood or not can_correct_flow(authorization):
        return ""
    (other,) = set(Flow) - {authorization.current_flow}
    return (
        f"; its flow, {authorization.flow}, was taken from default_flow: if that is wrong, run: flask authorizations"
        f" consult {plain(authorization.auth_state)} --flow {other}"
    )
