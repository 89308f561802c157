"""The doctor for the installation: each part is looked at, and what is wrong with it is said with the remedy.

Nothing is changed by it: no vault key and no database file is made, and nothing is sent to an endpoint or to Alipay.
"""

from app.installation.examination import examine
from app.installation.findings import Finding, Status

__all__ = ["Finding", "Status", "examine"]
