"""Deliveries on file: signed once, by keys that nobody has any more."""
