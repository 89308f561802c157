"""Unit tests of what is decided about calls to Alipay."""
