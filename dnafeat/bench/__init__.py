"""Measure speed beside limits and peers; check it against targets."""
