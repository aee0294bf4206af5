"""Where backups are kept: encrypted, deduplicated repositories, one per tenant."""
