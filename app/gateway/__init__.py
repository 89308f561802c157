"""Calls to Alipay: what a client with a gateway need not ask for itself (consult, exchange, refresh, revoke).

A call is a row. `requests` begins one that somebody asks for. `runner` makes those that are due: `choosing` picks them
and puts an attempt at each on record, `abandoned` knows the attempts that nobody makes any more, and `deadlines` ends
what is overdue. `endings` says what an answer means, by the pauses of `schedule`. `unrecorded` keeps what has ended
until `recording` has put it on record with the report that it leads to, in one transaction.
"""
