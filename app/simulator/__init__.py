"""Pretend to be Alipay: sign and send notifications, send them again until they are acknowledged, play scenarios.

It knows the wire (`app.alipay`) and nothing else of the service: whatever it finds out, it finds out over HTTP.
"""
