"""The server itself: where it listens, its workers, its connections."""
