"""The models of the responses to merchants and operators: OpenAPI is made from them, and tests check against them."""

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from app.events.deliveries import Status
from app.events.staging import EventType
from app.state_machine import AuthorizationState, Flow
from app.vocabulary import CallKind, CallStatus, Outcome


class ResponseModel(BaseModel):
    """A part of a response. It has no field but those described."""

    model_config = ConfigDict(alias_generator=to_camel, extra="forbid")


class Move(ResponseModel):
    """One recorded transition."""

    sequence: int
    event: str
    from_: AuthorizationState | None = Field(alias="from")
    to: AuthorizationState
    cause: Literal["api", "shell", "notification", "gateway"]
    #: The name of the API key, or the user of the shell, that reported it.
    by: str | None
    reason: str | None
    notification_id: str | None
    #: When the service first received it; `at` is when it took effect, which is later for a parked notification.
    learned_at: datetime
    at: datetime


class LinkedNotification(ResponseModel):
    """A notification that is linked to this authorization, whatever its outcome."""

    id: str
    type: str | None
    outcome: Literal["applied", "redundant", "parked", "rejected", "failed", "dismissed", "malformed"]
    reason: str | None
    deliveries: int
    received_at: datetime


class CallSummary(ResponseModel):
    """A call to Alipay, and how it stands."""

    id: str
    kind: CallKind
    status: CallStatus
    #: How many requests were begun.
    attempts: int
    is_in_flight: bool
    #: When the next request is due.
    due_at: datetime | None
    #: From when on it is not repeated.
    deadline_at: datetime | None
    #: Alipay's code in the last answer.
    result_code: str | None
    #: How it ended, or why it is repeated, in a sentence.
    reason: str | None
    cause: Literal["api", "shell", "gateway"]
    by: str | None
    created_at: datetime
    finished_at: datetime | None


class Summary(ResponseModel):
    """An authorization as it is listed."""

    id: str
    client_id: str
    auth_state: str
    flow: Flow
    state: AuthorizationState
    user_ref: str | None
    user_id: str | None
    customer_belongs_to: str | None
    created_at: datetime
    updated_at: datetime
    #: When the current token ends, if that is known.
    access_token_expiry_time: datetime | None
    #: The newest call to Alipay for it.
    call: CallSummary | None


class Cancellation(ResponseModel):
    """When, by whom and why an authorization was canceled."""

    at: datetime
    learned_at: datetime
    cause: Literal["api", "shell", "notification", "gateway"]
    by: str | None
    #: What the history says, where the event does not say it all.
    reason: str | None
    notification_id: str | None
    #: Whether the notification was purged, and with it what the wallet said.
    is_purged: bool
    #: What the wallet says that the user said.
    wallet_reason: str | None
    #: What the merchant reported.
    merchant_reason: str | None


class ListedAuthorization(Summary):
    """An authorization as it is listed, and why it was canceled where that was asked for."""

    cancellation: Cancellation | None = None


class AuthorizationDocument(Summary):
    """An authorization whole."""

    history: list[Move]
    notifications: list[LinkedNotification]


class CodeDetail(ResponseModel):
    """One way of showing a code with which the user can agree on another device."""

    display_type: str
    code_value: str


class AuthCodeForm(ResponseModel):
    """Codes with which the user can agree on another device."""

    code_details: list[CodeDetail]


class ConsultDocument(AuthorizationDocument):
    """The authorization, and where its user agrees: at least one URL, each of which works once."""

    normal_url: str | None
    scheme_url: str | None
    applink_url: str | None
    app_identifier: str | None
    auth_code_form: AuthCodeForm | None


class TokenReportDocument(AuthorizationDocument):
    """The authorization that a token was reported for."""

    #: Whether it has had another auth code than the one on record, or than the one that the report names.
    replaced_another: bool


class Page(ResponseModel):
    """A page of a listing; the next one is asked for with `cursor`."""

    authorizations: list[ListedAuthorization]
    next_cursor: str | None


class EntrySummary(ResponseModel):
    """A notification as it is listed."""

    id: str
    client_id: str
    type: str | None
    auth_state: str | None
    outcome: Outcome
    reason: str | None
    deliveries: int
    received_at: datetime
    last_received_at: datetime
    authorization_id: str | None


class TokenSearchDocument(ResponseModel):
    """What names an access token. Both lists are empty where nothing does."""

    authorizations: list[Summary]
    notifications: list[EntrySummary]


class ProvenNotification(ResponseModel):
    """What proves a notification to somebody else. Of one that was purged or erased only what is left."""

    id: str
    #: Deleted by `flask inbox purge`: the move it caused stays.
    is_purged: bool
    #: Its body was taken out, since its user was forgotten.
    is_erased: bool
    type: str | None = None
    outcome: Outcome | None = None
    deliveries: int | None = None
    received_at: datetime | None = None
    last_received_at: datetime | None = None
    method: str | None = None
    uri: str | None = None
    #: The headers that are signed, and the one with the signature.
    headers: dict[str, str] | None = None
    #: The request-time as a time.
    requested_at: datetime | None = None
    #: As the header names it; empty stands for the newest key.
    key_version: int | None = None
    #: Empty where the keyring no longer has the key.
    key_fingerprint: str | None = None
    key_pem: str | None = None
    signature_base64: str | None = Field(None, alias="signatureBase64")
    #: Empty where it is not UTF-8.
    body: str | None = None
    body_base64: str | None = Field(None, alias="bodyBase64")
    #: The exact string that was signed.
    signed: str | None = None
    signed_base64: str | None = Field(None, alias="signedBase64")


class ProvenMove(Move):
    """One recorded transition, and what proves it."""

    notification: ProvenNotification | None


class Erasure(ResponseModel):
    """Who had the user forgotten, and why."""

    at: datetime
    by: str | None
    reason: str | None


class EvidenceDocument(ResponseModel):
    """What proves the moves of an authorization."""

    id: str
    client_id: str
    auth_state: str
    state: AuthorizationState
    #: How to verify a signature with OpenSSL: key.pem is `keyPem`, sig.bin and signed.txt are the bytes of the base64.
    verify: str
    cancellation: Cancellation | None
    erasures: list[Erasure]
    moves: list[ProvenMove]


class AuthcodeDocument(ResponseModel):
    """What applyToken needs, within its minute."""

    auth_code: str
    received_at: datetime
    #: Whether another code was there: the user went back and agreed again, and the newest code is the one that lives.
    replaced_another: bool


class TokenDocument(ResponseModel):
    """What a payment and a refresh need."""

    access_token: str
    access_token_expiry_time: datetime | None
    refresh_token: str | None
    refresh_token_expiry_time: datetime | None


class FailedCall(ResponseModel):
    """The call that an event tells of, as it ended."""

    id: str
    status: CallStatus
    #: Alipay's code, if there was one.
    result_code: str | None


class EventData(ResponseModel):
    """What an event says: of which authorization, and which move. No code, no token, no login id."""

    authorization_id: str
    client_id: str
    auth_state: str
    user_ref: str | None
    customer_belongs_to: str | None
    #: Rises with each move of an authorization: what comes with a lower one than was seen is old, and to be dropped.
    sequence: int
    from_: AuthorizationState | None = Field(alias="from")
    to: AuthorizationState
    cause: Literal["api", "shell", "notification", "gateway"]
    learned_at: datetime
    at: datetime
    #: When the code is no longer of any use. Only of `authorization.authcode_issued`.
    expires_at: datetime | None = None
    #: Only of `…_failed`, which moves nothing.
    call: FailedCall | None = None


class EventDocument(ResponseModel):
    """An event, the same in the feed and as the body of a webhook (Standard Webhooks 1.0)."""

    #: The same however often it is told: what it came with is told apart by this.
    id: str
    type: EventType
    timestamp: datetime
    data: EventData


class FeedPage(ResponseModel):
    """Events in the order of the feed."""

    events: list[EventDocument]
    #: Read on from here, with `after`.
    next: str
    #: Whether there are more already.
    more: bool


class Delivery(ResponseModel):
    """What one endpoint is told of one event, as it is listed."""

    id: str
    event_id: str
    type: EventType
    endpoint: str
    status: Status
    #: How many requests were made.
    attempts: int
    due_at: datetime | None
    expires_at: datetime | None
    created_at: datetime
    finished_at: datetime | None
    #: The delivery that this one repeats.
    resend_of: str | None


class DeliveryPage(ResponseModel):
    """A page of a listing; the next one is asked for with `cursor`."""

    deliveries: list[Delivery]
    next_cursor: str | None


class AttemptMade(ResponseModel):
    """One request to an endpoint, and how it ended."""

    number: int
    at: datetime
    milliseconds: int
    http_status: int | None
    #: Why it failed.
    error: str | None
    #: The beginning of what was answered.
    answer: str | None


class DeliveryDocument(Delivery):
    """A delivery whole."""

    attempts_made: list[AttemptMade]


class FieldError(ResponseModel):
    """What is wrong with a field."""

    field: str
    message: str


class Problem(ResponseModel):
    """A problem document (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    errors: list[FieldError] = []
    #: Of a cursor of the feed that is gone: the oldest one that can be read on from.
    oldest: str = ""
    #: Of a call that Alipay refused: its code, and what is to be done about it.
    result_code: str = ""
    remedy: str = ""
    #: Of a consult that was not answered in time: what the same request names.
    auth_state: str = ""
    authorization_id: str = ""


class Alive(ResponseModel):
    """The process answers. Nothing else is checked."""

    status: Literal["ok"]


class Release(ResponseModel):
    """Which release answers, and for which revision of the tables it is made."""

    name: Literal["notifyauth"]
    version: str
    revision: str


class Readiness(ResponseModel):
    """Whether the service can do its work, and which check fails. Tables of a newer release are no failure."""

    status: Literal["ready", "not ready"]
    checks: dict[str, str]


class Result(ResponseModel):
    """What the protocol says about a request."""

    result_code: str
    result_status: Literal["S", "F", "U"]
    result_message: str


class NotificationResponse(ResponseModel):
    """The acknowledgement, or a refusal of the same form."""

    result: Result
