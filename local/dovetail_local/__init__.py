"""Real PostgreSQL and Apache Kafka on this machine, from Python packages alone.

This room starts servers, keeps them, and takes them away again. It knows nothing of outboxes, relays or topics:
whoever wants servers asks `dovetail_local.stack.Stack` and gets `dovetail_local.endpoints.Endpoints` back.

Invariants:
- every server is a child of one supervisor process, and no server outlives it;
- everything listens on 127.0.0.1 only, on ports that were free when the stack was made;
- nothing is signalled unless its process id and its start time are both the ones recorded.
"""
