"""Unit tests of what the merchant is told."""
