"""The models of the merchant's requests: they check them, and OpenAPI is made from them."""

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal, Self, TypeVar
from uuid import UUID

from flask import request
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    StringConstraints,
    ValidationError,
    WithJsonSchema,
    field_validator,
    model_validator,
)
from pydantic.alias_generators import to_camel
from pydantic_core import PydanticCustomError

from app.alipay.json_text import UnreadableJsonError, json_text
from app.alipay.notification import (
    ACCESS_TOKEN_CHARACTERS_MAX,
    AUTH_CODE_CHARACTERS_MAX,
    AUTH_STATE_CHARACTERS_MAX,
    USER_ID_CHARACTERS_MAX,
)
from app.alipay.token_answer import is_success, read_time, slip_for
from app.events.deliveries import Status
from app.events.staging import EventType
from app.events.type_patterns import UnknownTypeError, types_of
from app.limits import LONG_POLL_SECONDS_MAX
from app.reports import (
    CLIENT_ID_CHARACTERS_MAX,
    REASON_CHARACTERS_MAX,
    USER_REF_CHARACTERS_MAX,
    WALLET_CHARACTERS_MAX,
)
from app.server.rsgi_to_wsgi import announced_length
from app.state_machine import AuthorizationState
from app.web.problems import ProblemError
from app.web.request_body import BodyIncompleteError, BodyTooLargeError, exact_body

B = TypeVar("B", bound="Body")
Q = TypeVar("Q", bound="RequestModel")

#: What one page of a listing shows at most.
LIMIT_MAX = 1000

#: How a listing writes where it goes on: the 16 bytes of an id in base64url, which leave the last four bits unused,
#: or 8 bytes of a time before them.
CURSOR = "^([A-Za-z0-9_-]{21}[AQgw]|[A-Za-z0-9_-]{32})$"

#: A delivery's id is a number, written in one way.
DELIVERY_ID = "^[1-9][0-9]{0,17}$"
UUID_PATTERN = "^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$"
#: A name is a key of a TOML table.
ENDPOINT_CHARACTERS_MAX = 64
#: A cursor of the feed is what an answer said as `next`.
FEED_CURSOR = "^[0-9]{1,18}$"

#: The most that a consult may ask for (protocol.md, 4).
SCOPES_MAX = 4
REGION_CHARACTERS_MAX = 2
RESULT_CODE_CHARACTERS_MAX = 64

_DIGITS = re.compile(r"[0-9]+")


def text(characters_max: int) -> StringConstraints:
    """Constrain a text: not empty, and not longer than what it names can be."""
    return StringConstraints(min_length=1, max_length=characters_max)


AuthState = Annotated[str, text(AUTH_STATE_CHARACTERS_MAX)]
AuthCode = Annotated[str, text(AUTH_CODE_CHARACTERS_MAX)]
Token = Annotated[str, text(ACCESS_TOKEN_CHARACTERS_MAX)]
ClientId = Annotated[str, text(CLIENT_ID_CHARACTERS_MAX)]
Wallet = Annotated[str, text(WALLET_CHARACTERS_MAX)]
Reason = Annotated[str, text(REASON_CHARACTERS_MAX)]
Url = Annotated[str, StringConstraints(min_length=1, max_length=1024, pattern="^[!-~]+$")]
Scope = Annotated[str, text(64)]
Device = Annotated[str, text(64)]
UserRef = Annotated[str, text(USER_REF_CHARACTERS_MAX)]


def _time(value: object) -> datetime:
    # A number does not say whether it counts seconds or milliseconds.
    time = read_time(value) if isinstance(value, str) else None
    if time is None:
        raise PydanticCustomError("time", "Input should be a time as in 2087-06-06T12:12:12+08:00")
    return time


def _digits(value: object) -> object:
    # int() would also read 1_0, " 5" and digits of any script.
    if isinstance(value, str) and not _DIGITS.fullmatch(value):
        raise PydanticCustomError("digits", "Input should be a whole number, in digits only")
    return value


def _types(value: object) -> object:
    try:
        return types_of(value.split(",")) if isinstance(value, str) else value
    except UnknownTypeError as error:
        raise PydanticCustomError("unknown_type", "{known}", {"known": str(error)}) from None


#: The description has the patterns that are of use: a type, or a star for all.
_PATTERN = "|".join(map(re.escape, ["*", "authorization.*", *EventType]))
Types = Annotated[
    frozenset[EventType],
    BeforeValidator(_types),
    WithJsonSchema({"type": "string", "pattern": f"^({_PATTERN})(,({_PATTERN}))*$"}),
]
Limit = Annotated[
    int,
    Field(ge=1, le=LIMIT_MAX, description="How many to list at most: a whole number, in digits only."),
    BeforeValidator(_digits),
]
Wait = Annotated[
    int,
    Field(
        ge=0,
        le=LONG_POLL_SECONDS_MAX,
        description="For how many seconds to wait where there is nothing yet: a whole number, in digits only.",
    ),
    BeforeValidator(_digits),
]


def _as_written(pattern: str) -> Callable[[object], object]:
    """Require a text of this form before it is read as something else."""

    def check(value: object) -> object:
        if isinstance(value, str) and not re.fullmatch(pattern.removesuffix("$"), value):
            raise PydanticCustomError("pattern", "Input should be as an answer wrote it")
        return value

    return check


def _written(pattern: str) -> WithJsonSchema:
    return WithJsonSchema({"type": "string", "pattern": pattern})


Time = Annotated[datetime, PlainValidator(_time), WithJsonSchema({"type": "string", "format": "date-time"})]


class RequestModel(BaseModel):
    """A part of a request. An unknown field is refused, as it is probably misspelled. Errors never quote."""

    model_config = ConfigDict(
        alias_generator=to_camel, strict=True, extra="forbid", frozen=True, hide_input_in_errors=True
    )


def _describe_optional_fields(schema: dict[str, Any]) -> None:
    """Say of each optional field that it may be empty."""
    for name, described in schema["properties"].items():
        if name not in schema.get("required", ()) and "anyOf" in described:
            described["anyOf"].append({"const": ""})


def _describe_token_answer(schema: dict[str, Any]) -> None:
    _describe_optional_fields(schema)
    schema["additionalProperties"] = True


class Body(RequestModel):
    """A body. An optional field may be empty, as on Alipay's wire: the same as absent."""

    model_config = ConfigDict(json_schema_extra=_describe_optional_fields)

    @model_validator(mode="before")
    @classmethod
    def _drop_empty_optional_fields(cls, said: Any) -> Any:  # noqa: ANN401 -- whatever JSON can say
        if not isinstance(said, dict):
            return said
        optional = {to_camel(name) for name, field in cls.model_fields.items() if not field.is_required()}
        return {name: value for name, value in said.items() if value != "" or name not in optional}


class ConsultBody(Body):
    """A consult: `authState` as it was sent to Alipay. What is absent is unsaid."""

    auth_state: AuthState
    client_id: ClientId | None = None
    flow: Literal["auto_debit", "direct"] | None = None
    user_ref: UserRef | None = None
    customer_belongs_to: Wallet | None = None


def _describe_consult_call(schema: dict[str, Any]) -> None:
    _describe_optional_fields(schema)
    schema["properties"]["env"] = {"anyOf": [{"type": "object"}, {"type": "null"}, {"const": ""}]}


class ConsultCallBody(Body):
    """A consult that the service is to make: what Alipay asks for, and whose it is.

    Without `authState` the service makes one. Until January 2026 the device was said by `terminalType`, `osType` and
    `osVersion`, and since then it is by `env`: what is given is sent.
    """

    model_config = ConfigDict(json_schema_extra=_describe_consult_call)

    auth_state: AuthState | None = None
    client_id: ClientId | None = None
    flow: Literal["auto_debit", "direct"] | None = None
    user_ref: UserRef | None = None
    customer_belongs_to: Wallet
    auth_redirect_url: Url
    scopes: Annotated[list[Scope], Field(min_length=1, max_length=SCOPES_MAX)]
    auth_client_id: ClientId | None = None
    auth_notify_url: Url | None = None
    merchant_region: Annotated[str, text(REGION_CHARACTERS_MAX)] | None = None
    terminal_type: Device | None = None
    os_type: Device | None = None
    os_version: Device | None = None
    env: dict[str, Any] | None = None


class NoBody(Body):
    """Nothing is to be said."""


def _describe_payment_result(schema: dict[str, Any]) -> None:
    _describe_optional_fields(schema)
    said = {"type": "string", "minLength": 1}
    schema["anyOf"] = [{"required": [name], "properties": {name: said}} for name in ("accessToken", "requestedAt")]


#: By how much the merchant's clock may be ahead of ours.
_CLOCK_DIFFERENCE_MAX = timedelta(minutes=5)


class PaymentResultBody(Body):
    """What a charge was answered, and with which token, or when, it was requested."""

    model_config = ConfigDict(json_schema_extra=_describe_payment_result)

    result_code: Annotated[str, text(RESULT_CODE_CHARACTERS_MAX)]
    result_status: Literal["S", "F", "U"] | None = None
    access_token: Token | None = None
    requested_at: Time | None = None

    @model_validator(mode="after")
    def _require_subject(self) -> Self:
        if self.access_token is None and self.requested_at is None:
            message = "name the accessToken of the payment, or when it was requestedAt: a result may come late"
            raise PydanticCustomError("no_subject", message)
        return self

    @field_validator("requested_at")
    @classmethod
    def _require_past(cls, requested_at: datetime | None) -> datetime | None:
        """Refuse a slip: a time to come is later than every token, so that the result would end any of them."""
        if requested_at is not None and requested_at > datetime.now(UTC) + _CLOCK_DIFFERENCE_MAX:
            message = "a payment that is yet to be requested has no result: see the unit, and the clock"
            raise PydanticCustomError("in_the_future", message)
        return requested_at


class AuthcodeBody(Body):
    """The auth code that the redirect brought."""

    auth_code: AuthCode


#: A result that is given must be a success: of any other there is no token.
_RESULT = {"anyOf": [{"type": "object", "properties": {"resultStatus": {"const": "S"}}}, {"type": "null"}]}


class TokenBody(Body):
    """What applyToken answered with, as it came.

    With `authCode` the code is recorded too; with `replaces` it is a refresh. Of the other fields, `userLoginId` is
    stored. An unknown field is ignored, unless it looks like a misspelling of a known one.
    """

    model_config = ConfigDict(json_schema_extra=_describe_token_answer)

    access_token: Token
    access_token_expiry_time: Time | None = None
    refresh_token: Token | None = None
    refresh_token_expiry_time: Time | None = None
    auth_code: AuthCode | None = None
    replaces: Token | None = None
    result: Annotated[Any, WithJsonSchema(_RESULT)] = None
    user_login_id: Any = None
    extend_info: Any = None
    psp_customer_info: Any = None

    @model_validator(mode="before")
    @classmethod
    def _drop_unknown_fields(cls, said: Any) -> Any:  # noqa: ANN401 -- whatever JSON can say
        if not isinstance(said, dict):
            return said
        known = [to_camel(name) for name in cls.model_fields]
        return {name: value for name, value in said.items() if name in known or slip_for(name, known) is not None}

    @field_validator("result")
    @classmethod
    def _require_success(cls, result: object) -> object:
        if not is_success(result):
            message = "applyToken did not succeed: resultStatus is not S, so there is no token to report"
            raise PydanticCustomError("unsuccessful", message)
        return result


class CanceledBody(Body):
    """A revoke that succeeded."""

    reason: Reason | None = None


class TokenSearchBody(Body):
    """A token of which nothing else is known. Without `clientId` it is looked for at every client of the keyring."""

    access_token: Token
    client_id: ClientId | None = None


class ListQuery(RequestModel):
    """Which authorizations to list. All of it is text in a URL, so numbers are read from text.

    Times are half-open: from `…After` on, and not at `…Before` itself.
    """

    model_config = ConfigDict(strict=False)

    auth_state: AuthState | None = None
    user_ref: UserRef | None = None
    user_id: Annotated[str, text(USER_ID_CHARACTERS_MAX)] | None = None
    state: AuthorizationState | None = None
    client_id: ClientId | None = None
    customer_belongs_to: Wallet | None = None
    created_after: Time | None = None
    created_before: Time | None = None
    updated_after: Time | None = Field(None, description="Changed then or later: lists what changed last first.")
    updated_before: Time | None = Field(None, description="Not changed since: lists what changed last first.")
    expires_after: Time | None = Field(None, description="With expiresBefore: from when on, if not from now on.")
    expires_before: Time | None = Field(
        None,
        description="Whose current token ends before that, soonest first; of active tokens, unless a state is named.",
    )
    order: Literal["newest", "oldest"] | None = Field(
        None, description="What comes first, the newest by default. No matter with expiresBefore."
    )
    reasons: Literal["true", "false"] | None = Field(
        None, description="Whether to say why each was canceled: only for keys that may read tokens."
    )
    limit: Limit = 100
    cursor: Annotated[str, StringConstraints(pattern=CURSOR)] | None = None


class EventsQuery(RequestModel):
    """Which events to read, and whether to wait for some. All of it is text in a URL."""

    model_config = ConfigDict(strict=False)

    after: Annotated[int, BeforeValidator(_as_written(FEED_CURSOR)), _written(FEED_CURSOR)] | None = Field(
        None, description="Where to read on: what the answer before said as next. Without it, from the oldest event."
    )
    types: Types | None = Field(
        None, description="Only events of these types, with commas between them; authorization.* stands for all."
    )
    limit: Limit = 100
    wait: Wait = 0


class WaitQuery(RequestModel):
    """Whether to wait. All of it is text in a URL."""

    model_config = ConfigDict(strict=False)

    wait: Wait = 0


class DeliveriesQuery(RequestModel):
    """Which deliveries to list. All of it is text in a URL."""

    model_config = ConfigDict(strict=False)

    status: Status | None = None
    endpoint: Annotated[str, text(ENDPOINT_CHARACTERS_MAX)] | None = None
    event: Annotated[UUID, BeforeValidator(_as_written(UUID_PATTERN)), _written(UUID_PATTERN)] | None = Field(
        None, description="The id of an event."
    )
    limit: Limit = 100
    cursor: Annotated[int, BeforeValidator(_as_written(DELIVERY_ID)), _written(DELIVERY_ID)] | None = None


def read_body(model: type[B]) -> B:
    """Read the request's body as JSON of this form.

    Raises `ProblemError` 413, 400 or 422.
    """
    try:
        body = exact_body()
    except BodyTooLargeError:
        raise ProblemError(413, "too-large", "The body is larger than 64 KiB.") from None
    except BodyIncompleteError:
        raise ProblemError(400, "incomplete", "The body is not as long as announced.") from None
    try:
        return model.model_validate_json(json_text(body or _without_body()))
    except UnreadableJsonError as error:
        raise ProblemError(400, "not-json", str(error)) from None
    except ValidationError as error:
        raise _problem(error) from None


def _without_body() -> bytes:
    """Read a request without a body as a report without any field. A chunked body that is empty was broken off."""
    announced = bool(announced_length(request.environ)) or "Transfer-Encoding" in request.headers
    return b"" if announced else b"{}"


def read_query(model: type[Q]) -> Q:
    """Read the request's query.

    Raises `ProblemError` 422.
    """
    repeated = [{"field": name, "message": "given twice"} for name, values in request.args.lists() if len(values) > 1]
    if repeated:
        raise ProblemError(422, "invalid", "A parameter is given twice.", errors=repeated)
    try:
        return model.model_validate(request.args.to_dict())
    except ValidationError as error:
        raise _problem(error) from None


def _problem(error: ValidationError) -> ProblemError:
    """Say what is wrong with which field, without a word of what was sent."""
    wrong = error.errors(include_input=False, include_context=False, include_url=False)
    if wrong[0]["type"] == "json_invalid":
        return ProblemError(400, "not-json", "The body is not JSON.")
    errors = [{"field": ".".join(map(str, each["loc"])), "message": each["msg"]} for each in wrong]
    names = ", ".join(each["field"] or "the body" for each in errors)
    return ProblemError(422, "invalid", f"Not as the interface asks for: {names}.", errors=errors)
