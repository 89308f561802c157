"""What a WSGI server imports: the application, with its keys, database and vault opened and checked."""

import logging

from app import create_app, logs, metrics
from app.database import DatabaseUnavailableError, UnfitDatabaseError

application = create_app()
logs.include_everything(*logs.SERVERS)
metrics.share()

try:
    application.extensions["notifyauth"].open_all()
except UnfitDatabaseError:
    # Waiting would not help: an operator has to change something.
    raise
except DatabaseUnavailableError as error:
    # A worker that starts while the database is away waits for it: until then it is alive, not ready, and answers 503.
    asked = application.extensions["notifyauth"].settings.database_asked
    logging.getLogger("app").warning("the database is away", extra={"database": asked, "cause": error.cause})

application.extensions["notifyauth"].start_resuming()
