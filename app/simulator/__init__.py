"""A pretend Alipay: signs and sends notifications, redelivers them until they are acknowledged, plays scenarios.

It knows the wire (`app.alipay`) and nothing else of the service, with which it speaks over HTTP only.
"""
