"""Bring a source into a store: intake, plan, encoding, audit, publication."""
