"""The doctor for signatures: why a delivery does not verify, as certain findings and their remedy.

`signature_header` reads the signature, `opening` says which of the `keys` made it, `request_lines`, `stamps` and
`bodies` give what may have been signed, `search` looks which of it was, and `remedies` says what to do. Nothing that
receives notifications uses it.
"""

from app.alipay.diagnosis.changes import Change
from app.alipay.diagnosis.diagnose import Diagnosis, diagnose
from app.alipay.diagnosis.keys import KeyAtHand, keys_at_hand

__all__ = ["Change", "Diagnosis", "KeyAtHand", "diagnose", "keys_at_hand"]
