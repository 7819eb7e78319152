"""The artifact store: content-addressed artifacts, the ledger of runs, and the storage backends."""
