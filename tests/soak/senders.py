"""Play Alipay and the merchant, both of whom come again until they are answered."""

import json
import random
import time
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from http import HTTPStatus
from typing import Any

import urllib3

from app.alipay.delivery import Delivery
from app.simulator.draft import Draft
from app.simulator.keys import SANDBOX_CLIENT_ID
from app.simulator.sender import REDELIVERY_DELAYS, Sender, Signer, deliver
from tests.soak.ledger import Ledger
from tests.soak.lives import Life

#: Alipay's day passes in a quarter of a minute: its attempts come 0, 0.02, 0.1, 0.1, 0.6, 1.2, 3.6 and 9 s apart.
COMPRESSION = 6000
DELAYS = tuple(delay / COMPRESSION for delay in REDELIVERY_DELAYS)
#: A notification that a whole schedule could not bring in is sent anew: a figure of the report, not a loss. So many
#: outlast a storm and the recovery from its last mishap, on a busy machine too.
_SCHEDULES_MAX = 8
#: How long the merchant tries, and how long it waits between two tries.
_MERCHANT_SECONDS_MAX = 120
_MERCHANT_PAUSE_SECONDS = 0.1
_ANSWER_SECONDS_MAX = 10
_AUTHORIZATIONS = "/v1/authorizations"
#: A report that the service took, though the answer was lost, is known when it comes again.
_TAKEN = {HTTPStatus.OK, HTTPStatus.CREATED}


@dataclass(frozen=True)
class Alipay:
    """Sends notifications over connections of their own, on the real schedule, in a fraction of its time."""

    url: str
    signer: Signer
    ledger: Ledger

    def notify(self, draft: Draft, chance: random.Random) -> None:
        """Send until the exact acknowledgement comes back. Half of all redeliveries are signed anew."""
        is_signed_anew = chance.random() < 1 / 2
        with Sender(self.url) as sender:
            first = self.sign(draft, sender.uri)

            def attempt() -> Delivery:
                self.ledger.attempt(draft)
                return self.sign(draft, sender.uri) if is_signed_anew else first

            for schedule in range(_SCHEDULES_MAX):
                if schedule:
                    self.ledger.answers["a schedule ended without an acknowledgement"] += 1
                for answer in deliver(sender, attempt, sleep=_sleep, delays=DELAYS):
                    self.ledger.answer(draft, answer)
                    if answer.acknowledged:
                        return
        self.ledger.complain(f"{draft} was never acknowledged")

    def sign(self, draft: Draft, uri: str) -> Delivery:
        return self.signer.sign(draft.body(), uri=uri, request_time=str(time.time_ns() // 1_000_000))


def _sleep(delay: timedelta) -> None:
    time.sleep(delay.total_seconds())


@dataclass(frozen=True)
class Merchant:
    """Consults and reports over the API, again until it is answered."""

    url: str
    api_key: str
    ledger: Ledger

    def live(self, life: Life) -> None:
        """Tell all that the merchant knows of a life, in the order in which it learns it."""
        consult = {"clientId": SANDBOX_CLIENT_ID, "authState": life.auth_state}
        if life.flow_is_corrected:
            self.post(_AUTHORIZATIONS, consult)
        consulted = self.post(_AUTHORIZATIONS, {**consult, "flow": life.flow})
        tokens = partial(self.post, f"{_AUTHORIZATIONS}/{consulted.get('id')}/tokens")
        for number, token in enumerate(life.reported_tokens):
            code = {"authCode": life.auth_code} if life.auth_code else {}
            more = {"replaces": life.reported_tokens[number - 1]} if number else code
            tokens({"accessToken": token, **more})

    def post(self, path: str, body: dict[str, str]) -> dict[str, object]:
        """Post until the service says that it has it, and return the authorization as it then is."""
        status, document = self.ask("POST", path, json=body)
        if (path, status, document.get("code")) == (_AUTHORIZATIONS, HTTPStatus.CONFLICT, "canceled"):
            # It was taken, its answer was lost, and all is over by now.
            _, page = self.ask("GET", _AUTHORIZATIONS, fields={"authState": body["authState"]})
            (document,) = page["authorizations"]
        elif status not in _TAKEN:
            self.ledger.complain(f"the merchant's {path} was never taken")
            return {}
        return dict(document)

    def ask(self, method: str, path: str, **said: Any) -> tuple[int | None, dict[str, Any]]:  # noqa: ANN401 -- those of urllib3
        """Ask until there is an answer that will not change by itself."""
        deadline = time.monotonic() + _MERCHANT_SECONDS_MAX
        headers = {"Authorization": f"Bearer {self.api_key}"}
        while time.monotonic() < deadline:
            try:
                response = urllib3.request(
                    method, self.url + path, **said, headers=headers, retries=False, timeout=_ANSWER_SECONDS_MAX
                )
            except urllib3.exceptions.HTTPError:
                pass
            else:
                if response.status != HTTPStatus.SERVICE_UNAVAILABLE:
                    return response.status, json.loads(response.data)
            time.sleep(_MERCHANT_PAUSE_SECONDS)
        return None, {"authorizations": [{}]}
