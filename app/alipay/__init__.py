"""Alipay's wire protocol, and nothing else: the border where bytes become values that the service trusts, and back.

A module is one part of the protocol: `delivery` the bytes as they arrived, `keyring` and `signature` who sent them,
`notification` what they say, `acknowledgement` the response.
"""
