"""The prober: one asyncio process that looks at its share of the instances from outside, and says what it saw."""
