"""Group commit: calls that arrive while a transaction commits run together in the next one."""
