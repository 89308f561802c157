"""What the merchant's systems are told: events, their feed, and the endpoints that receive them as webhooks.

An event is staged by the transaction that moves an authorization, numbered into the feed by one background worker at a
time, and sent to each endpoint until that has it.
"""
