"""What a WSGI server imports: the application, with its keys, database and vault opened and checked."""

import contextlib

from app import create_app
from app.database import DatabaseUnavailableError

application = create_app()

# A worker that starts while the database is away waits for it: until then it is alive, not ready, and answers 503.
with contextlib.suppress(DatabaseUnavailableError):
    application.extensions["notifyauth"].check()

application.extensions["notifyauth"].start_resuming()
