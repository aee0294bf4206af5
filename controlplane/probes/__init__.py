"""Look at the world as a stranger does: DNS, TLS, streams, relays. They measure and never judge."""
