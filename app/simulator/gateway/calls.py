"""Answer a call: verify who asks, let go wrong what was asked for, do the work, sign the answer.

What a rejected caller is told is not signed; everything else is, under HTTP 200, whether it is S, F or U.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta, timezone
from enum import Enum, auto
from functools import cached_property
from http import HTTPStatus
from typing import Any

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

from app.alipay.delivery import Delivery
from app.alipay.signature import NotAuthenticError, sign, verify
from app.simulator.gateway.alipay import (
    CallRefusedError,
    Consent,
    Notice,
    PretendAlipay,
    end_notice,
    token_notice,
)
from app.simulator.gateway.faults import Fault, Faults, Phase
from app.simulator.gateway.keys import ClientKeys, callers
from app.simulator.gateway.ledger import Ledger, ReceivedCall, Rejection, Token
from app.simulator.gateway.requests import (
    ConsultRequest,
    ExchangeRequest,
    Operation,
    ParamIllegalError,
    RefreshRequest,
    Request,
    operation_of,
    read_request,
)
from app.simulator.gateway.wallets import wallet_of

#: The calls by the last part of their path.
_NAMES = {"consult", "applyToken", "revoke"}
_PREFIX = "/ams/api/v1/authorizations/"
#: A client id of the sandbox is answered under another path, and that path is signed.
_SANDBOX_PREFIX = "/ams/sandbox/api/v1/authorizations/"
_SANDBOX_CLIENT_ID = "SANDBOX_"

#: Where Alipay's clocks stand.
_ALIPAYS_ZONE = timezone(timedelta(hours=8))
_MESSAGE_CHARACTERS_MAX = 256
_HUGE_BYTES = 1024 * 1024
_HTML = b"<!doctype html><title>Bad gateway</title><h1>502 Bad gateway</h1>"
_KEY_BITS = 2048
_PUBLIC_EXPONENT = 65537

_JSON = "application/json; charset=UTF-8"
_HTML_TYPE = "text/html; charset=UTF-8"


class Sending(Enum):
    """How an answer is written."""

    WHOLE = auto()
    SILENT = auto()
    CUT = auto()
    DRIP = auto()
    ENDLESS = auto()


@dataclass(slots=True)
class Answer:
    """What is to be written, and what is to be done before and after."""

    status: int
    headers: dict[str, str]
    body: bytes = field(repr=False)
    sending: Sending = Sending.WHOLE
    delay_seconds: float = 0
    call: ReceivedCall | None = None
    #: Whether a caller can believe it, once it is there.
    is_believable: bool = True
    #: The token that it names.
    access_token: str | None = field(default=None, repr=False)
    #: What is to be notified before the answer is written, and after, with seconds to wait.
    notify_before: list[Notice] = field(default_factory=list)
    notify_after: list[tuple[Notice, float]] = field(default_factory=list)
    lost: list[Notice] = field(default_factory=list)


@dataclass(slots=True)
class _Done:
    """What came of the work."""

    status: str
    code: str
    message: str
    fields: dict[str, Any] = field(default_factory=dict)
    consent: Consent | None = None
    token: Token | None = None
    #: What Alipay notifies of by itself.
    notices: list[Notice] = field(default_factory=list)
    #: What it notifies of only where that is asked for.
    notices_on_request: list[Notice] = field(default_factory=list)

    def body(self) -> bytes:
        result = {"resultCode": self.code, "resultStatus": self.status, "resultMessage": self.message}
        return json.dumps({"result": result, **self.fields}, separators=(",", ":")).encode()


class Calls:
    """Answers calls."""

    def __init__(
        self,
        keys: Mapping[str, ClientKeys],
        alipay: PretendAlipay,
        ledger: Ledger,
        faults: Faults,
        clock: Callable[[], datetime],
        *,
        token_created: bool,
    ) -> None:
        """Take what stands behind, and whether every exchange is followed by a TOKEN_CREATED."""
        self._keys = keys
        self._callers = callers(keys)
        self._alipay = alipay
        self._ledger = ledger
        self._faults = faults
        self._clock = clock
        self._token_created = token_created

    def answer(self, delivery: Delivery, *, content_type: str, base_url: str) -> Answer:
        """Answer a call; `base_url` is where the browser finds this gateway."""
        name = delivery.uri.rpartition("/")[2]
        rejection = self._rejection(delivery, name, content_type)
        if rejection is not None:
            self._note(delivery, rejection)
            return _unsigned(delivery.client_id, rejection)
        try:
            request = read_request(name, delivery.body)
        except ParamIllegalError as error:
            illegal = _refused("PARAM_ILLEGAL", str(error))
            self._note(delivery, illegal)
            return self._signed(delivery, illegal)
        operation = operation_of(request)
        call = self._ledger.begin(delivery.client_id, operation, request.subject, delivery.body)
        faults = self._faults.take(operation, request.subject)
        call.faults = tuple(each.fault for each in faults)
        before = next((each for each in faults if each.phase is Phase.BEFORE), None)
        if before is not None:
            return self._fail(delivery, call, before)
        done = self._do(delivery.client_id, request, {each.fault for each in faults}, base_url)
        call.result_status, call.result_code = done.status, done.code
        answer = self._signed(delivery, done, call)
        for fault in faults:
            if fault.phase is Phase.ANSWER:
                self._spoil(answer, delivery, done, fault)
        self._plan_notifications(answer, done, faults)
        return answer

    # --- who asks ---

    def _rejection(self, delivery: Delivery, name: str, content_type: str) -> _Done | None:
        """Say why the caller is rejected, if it is."""
        if name not in _NAMES:
            return _refused("INVALID_API", "there is no such interface")
        if delivery.method != "POST":
            return _refused("METHOD_NOT_SUPPORTED", "the method is not supported")
        if content_type.partition(";")[0].strip().lower() != "application/json":
            return _refused("MEDIA_TYPE_NOT_ACCEPTABLE", "the content type is not application/json")
        try:
            verify(delivery, self._callers)
        except NotAuthenticError as error:
            return _refused(error.result_code, f"the caller cannot be verified ({error.cause})")
        prefix = _SANDBOX_PREFIX if delivery.client_id.startswith(_SANDBOX_CLIENT_ID) else _PREFIX
        if delivery.uri != prefix + name:
            return _refused("INVALID_API", f"this client calls {prefix}{name}")
        return None

    def _note(self, delivery: Delivery, done: _Done) -> None:
        """Write down a call that is none."""
        uri, client_id = delivery.uri[:_MESSAGE_CHARACTERS_MAX], delivery.client_id[:_MESSAGE_CHARACTERS_MAX]
        self._ledger.note(Rejection(client_id, uri, done.code, done.message, self._clock()))

    # --- what is done ---

    def _do(self, client_id: str, request: Request, faults: set[str], base_url: str) -> _Done:
        try:
            match request:
                case ConsultRequest():
                    return _consulted(self._alipay.consult(client_id, request), base_url)
                case ExchangeRequest():
                    token = self._alipay.exchange(client_id, request, refreshes="no-refresh-token" not in faults)
                    return self._token_given(token, faults)
                case RefreshRequest():
                    token = self._alipay.refresh(client_id, request, rotates="no-refresh-token" not in faults)
                    return self._token_given(token, faults)
                case _:
                    consent = self._alipay.revoke(client_id, request)
                    done = _succeeded(consent)
                    done.notices = [end_notice(consent, token) for token in [consent.token] if token is not None]
                    return done
        except CallRefusedError as error:
            return _refused(error.code, str(error))

    def _token_given(self, token: Token, faults: set[str]) -> _Done:
        consent = self._alipay.consent(token.consent_id)
        done = _succeeded(consent)
        done.token = token
        done.fields = {"accessToken": token.access_token}
        refresh_token = None if "no-refresh-token" in faults else token.refresh_token
        times = {"accessTokenExpiryTime": token.expires_at}
        if refresh_token is not None:
            times["refreshTokenExpiryTime"] = token.refresh_expires_at
            done.fields["refreshToken"] = refresh_token
        if "no-expiry" not in faults:
            done.fields |= {name: _alipays_time(time) for name, time in times.items() if time is not None}
        if consent is not None and consent.user is not None:
            done.fields["userLoginId"] = consent.user.login_id
            done.fields["extendInfo"] = json.dumps({"wallet": consent.request.wallet})
            if token.operation is Operation.EXCHANGE:
                notices = [token_notice(consent, token)]
                done.notices, done.notices_on_request = (notices, []) if self._token_created else ([], notices)
            else:
                old = None if token.replaces is None else self._ledger.token(token.replaces)
                done.notices_on_request = [] if old is None else [end_notice(consent, old)]
        return done

    # --- what goes wrong ---

    def _fail(self, delivery: Delivery, call: ReceivedCall, fault: Fault) -> Answer:
        """Answer without having done anything."""
        match fault.fault:
            case "unknown":
                done = _Done("U", fault.code or "UNKNOWN_EXCEPTION", "an unknown exception")
            case "in-process":
                done = _Done("U", "AUTH_IN_PROCESS", "the authorization is in process")
            case "error-500":
                return Answer(HTTPStatus.INTERNAL_SERVER_ERROR, {"Content-Type": _HTML_TYPE}, _HTML, call=call)
            case "silent":
                return Answer(HTTPStatus.OK, {}, b"", Sending.SILENT, call=call, is_believable=False)
            case "cut-before":
                return Answer(HTTPStatus.OK, {}, b"", Sending.CUT, call=call, is_believable=False)
            case _:
                done = _refused(fault.code or "PROCESS_FAIL", "refused on request")
        call.result_status, call.result_code = done.status, done.code
        if fault.fault == "refused-unsigned":
            return replace(_unsigned(delivery.client_id, done), call=call)
        return self._signed(delivery, done, call)

    def _spoil(self, answer: Answer, delivery: Delivery, done: _Done, fault: Fault) -> None:
        """Spoil the answer to a call that was done."""
        if fault.fault == "slow":
            answer.delay_seconds = fault.seconds
            return
        answer.is_believable = False
        match fault.fault:
            case "unknown-done":
                unknown = _Done("U", fault.code or "UNKNOWN_EXCEPTION", "an unknown exception")
                self._sign(answer, delivery, unknown.body())
            case "silent-done":
                answer.sending = Sending.SILENT
            case "cut-after":
                answer.sending = Sending.CUT
            case "unsigned":
                del answer.headers["signature"], answer.headers["response-time"]
            case "half-signed":
                del answer.headers["signature"]
            case "bad-signature":
                self._sign(answer, delivery, answer.body, key=self._strangers_key)
            case "replayed-signature":
                body = answer.body
                self._sign(answer, delivery, _refused("PROCESS_FAIL", "the answer to another call").body())
                answer.body = body
            case "other-client":
                other = replace(delivery, client_id=f"{delivery.client_id}_OTHER")
                self._sign(answer, other, answer.body, key=self._keys[delivery.client_id].alipay_key)
            case "huge":
                filled = replace(done, fields={**done.fields, "filler": "x" * _HUGE_BYTES})
                self._sign(answer, delivery, filled.body())
            case "not-json":
                self._sign(answer, delivery, answer.body[: len(answer.body) // 2])
            case "endless":
                answer.sending = Sending.ENDLESS
            case "drip":
                answer.sending = Sending.DRIP
            case "html":
                answer.headers, answer.body = {"Content-Type": _HTML_TYPE}, _HTML
            case _:
                answer.status, answer.headers["Location"] = HTTPStatus.FOUND, delivery.uri

    @cached_property
    def _strangers_key(self) -> RSAPrivateKey:
        return rsa.generate_private_key(_PUBLIC_EXPONENT, _KEY_BITS)

    def _plan_notifications(self, answer: Answer, done: _Done, faults: tuple[Fault, ...]) -> None:
        fault = next((each for each in faults if each.phase is Phase.NOTIFICATION), None)
        match fault and fault.fault:
            case "lost-notification":
                answer.lost = done.notices
            case "notify-before":
                answer.notify_before = done.notices or done.notices_on_request
            case "notify-after" if fault is not None:
                answer.notify_after = [(each, fault.seconds) for each in done.notices or done.notices_on_request]
            case _:
                answer.notify_after = [(each, 0) for each in done.notices]

    # --- how it is signed ---

    def _signed(self, delivery: Delivery, done: _Done, call: ReceivedCall | None = None) -> Answer:
        token = None if done.token is None else done.token.access_token
        answer = Answer(HTTPStatus.OK, {}, b"", call=call, access_token=token)
        self._sign(answer, delivery, done.body())
        return answer

    def _sign(self, answer: Answer, delivery: Delivery, body: bytes, *, key: RSAPrivateKey | None = None) -> None:
        """Put a body and the headers that sign it into an answer."""
        response_time = _alipays_time(self._clock())
        keys = self._keys.get(delivery.client_id)
        signing_key = key or (keys.alipay_key if keys else self._strangers_key)
        signature = sign(
            signing_key,
            method="POST",
            uri=delivery.uri,
            client_id=delivery.client_id,
            time=response_time,
            body=body,
            key_version=keys.key_version if keys else 1,
        )
        answer.body = body
        answer.headers = {
            "Content-Type": _JSON,
            "client-id": delivery.client_id,
            "response-time": response_time,
            "signature": signature,
        }


def _unsigned(client_id: str, done: _Done) -> Answer:
    """Answer a caller that is rejected. What it called itself is echoed only if a header can carry it."""
    headers = {"Content-Type": _JSON}
    if client_id.isascii() and client_id.isprintable() and 0 < len(client_id) <= _MESSAGE_CHARACTERS_MAX:
        headers["client-id"] = client_id
    return Answer(HTTPStatus.OK, headers, done.body())


def _refused(code: str, message: str) -> _Done:
    return _Done("F", code, message[:_MESSAGE_CHARACTERS_MAX])


def _succeeded(consent: Consent | None) -> _Done:
    return _Done("S", "SUCCESS", "success", consent=consent)


def _consulted(consent: Consent, base_url: str) -> _Done:
    done = _succeeded(consent)
    url = f"{base_url}/consent/{consent.id}"
    done.fields = {
        "normalUrl": url,
        "authCodeForm": {"codeDetails": [{"displayType": "TEXT", "codeValue": url}]},
    }
    if consent.request.terminal_type in {"APP", "WAP"}:
        name = wallet_of(consent.request.wallet).name
        done.fields |= {"schemeUrl": f"pretend-wallet://consent/{consent.id}", "applinkUrl": url, "appIdentifier": name}
    return done


def _alipays_time(time: datetime) -> str:
    return time.astimezone(_ALIPAYS_ZONE).isoformat(timespec="seconds")
