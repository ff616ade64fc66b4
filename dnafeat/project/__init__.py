"""Fit projections, and apply them to stored vectors."""
