"""The two demonstrations that run on bundled data."""
