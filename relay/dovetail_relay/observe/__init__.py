"""Looking at a running relay without disturbing it: what `status` and `tail` show.

Everything here only reads: PostgreSQL in short read-only statements, Kafka by consumers that belong to no group, the
relay by its own HTTP port. `facts` and `verdict` are pure; the rooms that ask a server hand them what they found.
"""
