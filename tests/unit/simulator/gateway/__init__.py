"""Tests of the pretend gateway."""
