"""Measure the service and what else one could use, side by side: `make bench`."""
