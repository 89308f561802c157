"""A pretend Alipay gateway: answers consult, applyToken and revoke, asks the user for consent, and notifies.

`gateway` puts it together. `server` speaks HTTP, `requests` reads what is asked, `calls` answers it, `alipay` is what
stands behind: consents, codes and tokens. `pages` are what a user sees, `faults` what goes wrong when it is asked for,
`notifier` sends the notifications, `ledger` remembers everything that was done.
"""
