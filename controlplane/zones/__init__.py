"""DNS: which record sets should exist, whose they are, and whether the world sees them."""
