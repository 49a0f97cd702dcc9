"""PostgreSQL to frames: the replication stream, the slot, the timeline, and the lock session that leads."""
