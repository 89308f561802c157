"""What a WSGI server imports: the application, with its keys, database and vault opened and checked."""

from app import create_app

application = create_app()
application.extensions["notifyauth"].check()
