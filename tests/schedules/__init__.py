"""Play schedules, orders in which things may happen, on the service and on a model of it, and compare the two."""
