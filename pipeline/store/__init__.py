"""Artifacts by digest, the ledger beside them, and the folder or bucket that holds both."""
