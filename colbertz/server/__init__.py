"""Serving indexes: durable writes, searches beside them, and next-plaid's routes over HTTP."""
