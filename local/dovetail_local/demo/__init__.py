"""The demo: a shop on real servers, a relay that is killed again and again, and books that must balance.

Read in this order: `events`, `order_service`, `shipping_service` are what a user of Dovetail writes; `run` starts them,
kills, and waits; `topic` reads back what Kafka has, and `books` compares it with the database.
"""
