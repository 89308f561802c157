"""The specification, one sentence a test."""
