"""TLS certificates by ACME: one per instance, renewed in time, trusted by whoever connects."""
