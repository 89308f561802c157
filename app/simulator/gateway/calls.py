"""Answer a call: verify who asks, let go wrong what was asked for, do the work, sign the answer.

What a rejected caller is told is not signed; everything else is, under HTTP 200, whether it is S, F or U.
"""

import json
from collections.abc import Callable, Mapping
from datetime import datetime

from app.alipay.delivery import Delivery
from app.alipay.signature import NotAuthenticError, verify
from app.simulator.gateway.alipay import CallRefusedError, Consent, PretendAlipay, end_notice, token_notice
from app.simulator.gateway.answers import Answer, Done, Signing, alipays_time, refused, succeeded, unsigned
from app.simulator.gateway.faults import Fault, Faults, Phase
from app.simulator.gateway.keys import ClientKeys, callers
from app.simulator.gateway.ledger import Ledger, Rejection, Token
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
from app.simulator.gateway.spoiling import Spoiling
from app.simulator.gateway.wallets import wallet_of

#: The calls by the last part of their path.
_NAMES = {"consult", "applyToken", "revoke"}
_PREFIX = "/ams/api/v1/authorizations/"
#: A client id of the sandbox is answered under another path, and that path is signed.
_SANDBOX_PREFIX = "/ams/sandbox/api/v1/authorizations/"
_SANDBOX_CLIENT_ID = "SANDBOX_"

_MESSAGE_CHARACTERS_MAX = 256


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
        self._callers = callers(keys)
        self._alipay = alipay
        self._ledger = ledger
        self._faults = faults
        self._clock = clock
        self._signing = Signing(keys, clock)
        self._spoiling = Spoiling(self._signing)
        self._token_created = token_created

    def answer(self, delivery: Delivery, *, content_type: str, base_url: str) -> Answer:
        """Answer a call; `base_url` is where the browser finds this gateway."""
        name = delivery.uri.rpartition("/")[2]
        rejection = self._rejection(delivery, name, content_type)
        if rejection is not None:
            self._note(delivery, rejection)
            return unsigned(delivery.client_id, rejection)
        try:
            request = read_request(name, delivery.body)
        except ParamIllegalError as error:
            illegal = refused("PARAM_ILLEGAL", str(error))
            self._note(delivery, illegal)
            return self._signing.answer(delivery, illegal)
        operation = operation_of(request)
        call = self._ledger.begin(delivery.client_id, operation, request.subject, delivery.body)
        faults = self._faults.take(operation, request.subject)
        call.faults = tuple(each.fault for each in faults)
        before = next((each for each in faults if each.phase is Phase.BEFORE), None)
        if before is not None:
            return self._spoiling.fail(delivery, call, before)
        done = self._do(delivery.client_id, request, {each.fault for each in faults}, base_url)
        call.result_status, call.result_code = done.status, done.code
        answer = self._signing.answer(delivery, done, call)
        for fault in faults:
            if fault.phase is Phase.ANSWER:
                self._spoiling.spoil(answer, delivery, done, fault)
        self._plan_notifications(answer, done, faults)
        return answer

    # --- who asks ---

    def _rejection(self, delivery: Delivery, name: str, content_type: str) -> Done | None:
        """Say why the caller is rejected, if it is."""
        if name not in _NAMES:
            return refused("INVALID_API", "there is no such interface")
        if delivery.method != "POST":
            return refused("METHOD_NOT_SUPPORTED", "the method is not supported")
        if content_type.partition(";")[0].strip().lower() != "application/json":
            return refused("MEDIA_TYPE_NOT_ACCEPTABLE", "the content type is not application/json")
        try:
            verify(delivery, self._callers)
        except NotAuthenticError as error:
            return refused(error.result_code, f"the caller cannot be verified ({error.cause})")
        prefix = _SANDBOX_PREFIX if delivery.client_id.startswith(_SANDBOX_CLIENT_ID) else _PREFIX
        if delivery.uri != prefix + name:
            return refused("INVALID_API", f"this client calls {prefix}{name}")
        return None

    def _note(self, delivery: Delivery, done: Done) -> None:
        """Write down a call that is none."""
        uri, client_id = delivery.uri[:_MESSAGE_CHARACTERS_MAX], delivery.client_id[:_MESSAGE_CHARACTERS_MAX]
        self._ledger.note(Rejection(client_id, uri, done.code, done.message, self._clock()))

    # --- what is done ---

    def _do(self, client_id: str, request: Request, faults: set[str], base_url: str) -> Done:
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
                    done = succeeded()
                    done.notices = [end_notice(consent, token) for token in [consent.token] if token is not None]
                    return done
        except CallRefusedError as error:
            return refused(error.code, str(error))

    def _token_given(self, token: Token, faults: set[str]) -> Done:
        consent = self._alipay.consent(token.consent_id)
        done = succeeded()
        done.token = token
        done.fields = {"accessToken": token.access_token}
        refresh_token = None if "no-refresh-token" in faults else token.refresh_token
        times = {"accessTokenExpiryTime": token.expires_at}
        if refresh_token is not None:
            times["refreshTokenExpiryTime"] = token.refresh_expires_at
            done.fields["refreshToken"] = refresh_token
        if "no-expiry" not in faults:
            done.fields |= {name: alipays_time(time) for name, time in times.items() if time is not None}
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

    # --- what is told ---

    def _plan_notifications(self, answer: Answer, done: Done, faults: tuple[Fault, ...]) -> None:
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


def _consulted(consent: Consent, base_url: str) -> Done:
    done = succeeded()
    url = f"{base_url}/consent/{consent.id}"
    done.fields = {
        "normalUrl": url,
        "authCodeForm": {"codeDetails": [{"displayType": "TEXT", "codeValue": url}]},
    }
    if consent.request.terminal_type in {"APP", "WAP"}:
        name = wallet_of(consent.request.wallet).name
        done.fields |= {"schemeUrl": f"pretend-wallet://consent/{consent.id}", "applinkUrl": url, "appIdentifier": name}
    return done
