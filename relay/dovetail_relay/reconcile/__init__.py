"""The outbox against the topics: counts and sums first, ids only where they differ."""
