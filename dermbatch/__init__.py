"""What the orchestrator and the workers both speak: records, keys, the ledger, the object store, errors."""

__version__ = "0.2.0"
