"""A stage for each test, as the integration tests have it."""

from tests.integration.conftest import alipay_key, stage

__all__ = ["alipay_key", "stage"]
