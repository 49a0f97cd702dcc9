"""What operators' commands do before and after the relay's part: ask, follow, look at what would be done, audit.

Nothing here touches the stream or a topic: what changes those is done by the leader, over a row of `dovetail.command`.
"""
