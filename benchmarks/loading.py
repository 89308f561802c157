"""Put years of authorizations on record for tests of plans: PostgreSQL makes the rows up itself, all of them kept.

Their tokens, codes and bodies are noise of the length that sealed values have: nobody opens them. All else is as if
the service had written it: ids in the order of time, histories without a gap, entries that name what they moved.
"""

from collections.abc import Callable, Iterator

from sqlalchemy import Connection, create_engine, text

from app.simulator.keys import SANDBOX_CLIENT_ID

#: So many authorizations are made in one transaction.
BATCH = 50_000
#: The first was consulted so long ago, the last just now.
DAYS = 400

_LIVES = """
CREATE TEMPORARY TABLE life ON COMMIT DROP AS
SELECT
    n,
    at,
    -- A UUIDv7: the milliseconds first, so that ids are in the order of time.
    (lpad(to_hex((extract(epoch FROM at) * 1000)::bigint), 12, '0') || '7' || substr(noise, 1, 3) || '8'
        || substr(noise, 4, 15))::uuid AS id,
    'loaded-' || n AS auth_state,
    CASE WHEN n % 4 = 0 THEN 'direct' ELSE 'auto_debit' END AS flow,
    -- Most stand, many are canceled, a few users never consent, or their code is never exchanged.
    CASE WHEN n % 20 = 0 THEN 'consulted'
         WHEN n % 20 = 1 AND n % 4 <> 0 THEN 'authcode_issued'
         WHEN n % 3 = 0 THEN 'canceled'
         ELSE 'token_active' END AS state
FROM generate_series(CAST(:first AS bigint), :last) AS n,
    LATERAL (SELECT md5(n::text) AS noise, now() - make_interval(secs => :age * (1 - n::float / :count)) AS at) AS made
"""

_AUTHORIZATIONS = """
INSERT INTO authorizations (id, client_id, auth_state, flow, state, version, user_ref, customer_belongs_to,
    sealed_auth_code, auth_code_received_at, created_at, updated_at)
SELECT id, :client, auth_state, flow, state,
    CASE state WHEN 'consulted' THEN 1 WHEN 'authcode_issued' THEN 2 WHEN 'token_active' THEN 3 ELSE 4 END
        - CASE WHEN flow = 'direct' AND state <> 'consulted' THEN 1 ELSE 0 END,
    -- Some users authorize more than once.
    'user-' || n * 4 / 5, 'GCASH',
    CASE WHEN flow = 'auto_debit' AND state <> 'consulted' THEN decode(repeat(md5(auth_state), 3), 'hex') END,
    CASE WHEN flow = 'auto_debit' AND state <> 'consulted' THEN at + interval '20 seconds' END,
    at, at + interval '1 minute'
FROM life
"""

_CONSULTS = """
INSERT INTO transitions (authorization_id, sequence, event, to_state, cause, at)
SELECT id, 1, 'consult', 'consulted', 'api', at FROM life
"""

_NOTIFICATIONS = """
WITH said AS (
    SELECT life.*, type, from_state, to_state, sequence - CASE flow WHEN 'direct' THEN 1 ELSE 0 END AS sequence,
        at + delay AS said_at, sha256(('token-' || n)::bytea) AS token_index
    FROM life, LATERAL (VALUES
        ('AUTHCODE_CREATED', 'consulted', 'authcode_issued', 2, interval '20 seconds',
            flow = 'auto_debit' AND state <> 'consulted'),
        ('TOKEN_CREATED', CASE flow WHEN 'direct' THEN 'consulted' ELSE 'authcode_issued' END, 'token_active', 3,
            interval '22 seconds', state IN ('token_active', 'canceled')),
        ('TOKEN_CANCELED', 'token_active', 'canceled', 4, interval '1 hour', state = 'canceled')
    ) AS possible (type, from_state, to_state, sequence, delay, was_said)
    WHERE was_said
), entry AS (
    INSERT INTO inbox (fingerprint, client_id, type, auth_state, token_index, sealed_body, uri, request_time,
        signature, deliveries, received_at, last_received_at, outcome, found_state, authorization_id)
    SELECT sha256((type || n)::bytea), :client, type, CASE WHEN type <> 'TOKEN_CANCELED' THEN auth_state END,
        CASE WHEN type <> 'AUTHCODE_CREATED' THEN token_index END, decode(repeat(md5(type || n), 16), 'hex'),
        '/alipay/notifyAuthorization', (extract(epoch FROM said_at) * 1000)::bigint::text,
        'algorithm=RSA256,keyVersion=1,signature=' || repeat(md5(type || n), 11),
        CASE WHEN n % 10 = 0 THEN 2 ELSE 1 END, said_at, said_at, 'applied', from_state, id
    FROM said
    ORDER BY said_at
    RETURNING id, authorization_id, type
), token AS (
    INSERT INTO access_tokens (client_id, token_index, authorization_id, sealed_access_token, created_at)
    SELECT :client, token_index, id, decode(repeat(md5(auth_state), 4), 'hex'), said_at
    FROM said
    WHERE type = 'TOKEN_CREATED'
)
INSERT INTO transitions (authorization_id, sequence, event, from_state, to_state, cause, notification_id, at)
SELECT said.id, sequence, lower(said.type), from_state, to_state, 'notification', entry.id, said_at
FROM said JOIN entry ON entry.authorization_id = said.id AND entry.type = said.type
"""

#: Of what nobody told us: the cancellations of unknown tokens, which wait.
_PARKED = """
INSERT INTO inbox (fingerprint, client_id, type, token_index, sealed_body, uri, request_time, signature, deliveries,
    received_at, last_received_at, outcome, reason)
SELECT sha256(('parked' || n)::bytea), :client, 'TOKEN_CANCELED', sha256(('unknown' || n)::bytea),
    decode(repeat(md5(auth_state), 12), 'hex'), '/alipay/notifyAuthorization',
    (extract(epoch FROM at) * 1000)::bigint::text,
    'algorithm=RSA256,keyVersion=1,signature=' || repeat(md5(auth_state), 11), 1, at, at, 'parked', 'unknown_token'
FROM life
WHERE n % 1000 = 0
"""

_STEPS = (_AUTHORIZATIONS, _CONSULTS, _NOTIFICATIONS, _PARKED)


def load(url: str, count: int, *, tell: Callable[[str], None]) -> None:
    """Load so many authorizations into a migrated, empty database, with all that was said of them."""
    engine = create_engine(url)
    for first, last in _batches(count):
        with engine.begin() as connection:
            _load(connection, first, last, count)
        tell(f"loaded {last} of {count}")
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM ANALYZE"))
    engine.dispose()


def _batches(count: int) -> Iterator[tuple[int, int]]:
    for first in range(1, count + 1, BATCH):
        yield first, min(first + BATCH - 1, count)


def _load(connection: Connection, first: int, last: int, count: int) -> None:
    age = DAYS * 24 * 60 * 60
    connection.execute(text(_LIVES), {"first": first, "last": last, "count": count, "age": age})
    for step in _STEPS:
        connection.execute(text(step), {"client": SANDBOX_CLIENT_ID})
