"""The HTTP endpoints: Alipay's, the merchant's, and the operator's."""

from app.web.endpoints import init_app

__all__ = ["init_app"]
