"""Align two modalities in one space, and measure how well."""
