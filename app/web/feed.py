"""The endpoints of what the merchant's systems are told: the feed of events, and the deliveries of webhooks."""

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus

from flask import Blueprint, Response, current_app, url_for
from sqlalchemy.orm import Session

from app.database import Database
from app.documents import Document, delivery_document, delivery_summaries, event_document
from app.events import deliveries, feed
from app.events.deliveries import DeliveryFilter
from app.events.feed import Page, PastCursorError
from app.events.staging import EventType
from app.long_polling import Found, NotYet
from app.models import WebhookDelivery
from app.web.bearer import require_key
from app.web.problems import ProblemError
from app.web.request_models import DELIVERY_ID, DeliveriesQuery, EventsQuery, read_query
from app.web.waiting import wait_for
from app.wiring import Service

blueprint = Blueprint("feed", __name__, url_prefix="/v1")
blueprint.before_request(require_key)


@dataclass(frozen=True, slots=True)
class _Reader:
    """Who reads on from a place in the feed. Several who read alike are answered with one page."""

    after: int
    types: frozenset[EventType] | None
    limit: int


@dataclass(frozen=True, slots=True)
class _LookAtFeed:
    """Reads pages for the waiting readers, once the feed goes further than they have read."""

    database: Database

    def __call__(self, readers: Collection[_Reader]) -> Mapping[_Reader, Found[str] | NotYet[_Reader]]:
        last_position = self.database.run(feed.last_position, read_only=True)
        return {each: self._read_on(each) for each in readers if each.after < last_position}

    def _read_on(self, reader: _Reader) -> Found[str] | NotYet[_Reader]:
        page = _page(self.database, reader.after, reader.types, reader.limit)
        if page.events:
            return Found(_written(page))
        return NotYet(_Reader(page.next, reader.types, reader.limit))


@blueprint.get("/events")
def list_events() -> Response:
    """Read events in the order of the feed, and wait for some where there are none yet."""
    query = read_query(EventsQuery)
    database = _service().database
    page = _page(database, query.after, query.types, query.limit)
    if page.events or not query.wait:
        return _respond(_written(page))
    reader = _Reader(page.next, query.types, query.limit)

    def answer(found: str | None, reader: _Reader) -> Response:
        return _respond(_written(Page([], reader.after, has_more=False)) if found is None else found)

    return wait_for(_LookAtFeed(database), reader, answer, seconds=query.wait)


@blueprint.get("/deliveries")
def list_deliveries() -> Response:
    """List deliveries, newest first."""
    query = read_query(DeliveriesQuery)
    wanted = DeliveryFilter(status=query.status, endpoint=query.endpoint, event=query.event)

    def page(session: Session) -> Document:
        rows = deliveries.listing(session, wanted, limit=query.limit + 1, before=query.cursor)
        shown = rows[: query.limit]
        cursor = str(shown[-1].id) if len(rows) > query.limit else None
        return {"deliveries": delivery_summaries(session, shown), "nextCursor": cursor}

    return _respond(json.dumps(_service().database.run(page, read_only=True)))


@blueprint.get("/deliveries/<delivery_id>")
def show_delivery(delivery_id: str) -> Response:
    """Show a delivery with its attempts."""

    def read(session: Session) -> Document:
        return delivery_document(session, _find(session, delivery_id))

    return _respond(json.dumps(_service().database.run(read, read_only=True)))


@blueprint.post("/deliveries/<delivery_id>/resend")
def resend(delivery_id: str) -> Response:
    """Tell an endpoint of an event again, by a new delivery."""
    now = datetime.now(UTC)

    def work(session: Session) -> Document:
        deliveries.lock_feed(session)
        found = _find(session, delivery_id)
        if found.endpoint not in _service().endpoints:
            detail = f"Endpoint {found.endpoint} is not in endpoints.toml any more: nothing is sent to it."
            raise ProblemError(409, "endpoint-not-configured", detail)
        return delivery_document(session, deliveries.resend(session, found, now=now))

    made = _service().database.run(work)
    response = _respond(json.dumps(made), HTTPStatus.CREATED)
    response.headers["Location"] = url_for("feed.show_delivery", delivery_id=made["id"])
    return response


def _service() -> Service:
    service: Service = current_app.extensions["notifyauth"]
    return service


def _page(database: Database, after: int | None, types: Collection[str] | None, limit: int) -> Page:
    """Read a page of the feed. Raises `ProblemError` 410."""

    def read(session: Session) -> Page:
        return feed.page(session, after=after, types=types, limit=limit)

    try:
        return database.run(read, read_only=True)
    except PastCursorError as error:
        raise ProblemError(410, "cursor-gone", str(error), members={"oldest": str(error.oldest)}) from None


def _written(page: Page) -> str:
    events = [event_document(each) for each in page.events]
    return json.dumps({"events": events, "next": str(page.next), "more": page.has_more})


def _find(session: Session, delivery_id: str) -> WebhookDelivery:
    found = deliveries.find(session, int(delivery_id)) if re.fullmatch(DELIVERY_ID, delivery_id) else None
    if found is None:
        raise ProblemError(
            404, "delivery-not-found", "There is no such delivery; old ones are purged with their events."
        )
    return found


def _respond(document: str, status: int = HTTPStatus.OK) -> Response:
    return Response(document, status, content_type="application/json")
