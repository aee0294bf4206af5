"""The order of things: which steps make an instance live, and what its node is sent."""
