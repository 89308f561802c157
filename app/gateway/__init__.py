"""Calls to Alipay: what a client with a gateway need not ask for itself (consult, exchange, refresh, revoke).

A call is a row. `requests` begins one that somebody asks for, `runner` makes those that are due, `endings` says what an
answer means, and `recording` puts the end on record with the report that it leads to, in one transaction.
"""
