"""Speak with Alipay, and nothing else: the border where bytes from the wire become values we trust, and back.

Each module owns one thing of the wire protocol: `delivery` the bytes as they arrived, `keyring` and `signature` who
sent them, `notification` what they say, `acknowledgement` what we answer; `secret` keeps what they say out of sight.
"""
