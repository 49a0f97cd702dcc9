-- The shop's own tables: what any service has, next to Dovetail's.
CREATE SCHEMA shop;

CREATE TABLE shop.customer (
    name   text PRIMARY KEY,
    orders bigint NOT NULL DEFAULT 0
);

CREATE TABLE shop.orders (
    customer text NOT NULL REFERENCES shop.customer,
    number   bigint NOT NULL,
    product  text NOT NULL,
    event_id uuid NOT NULL,
    PRIMARY KEY (customer, number)
);

-- Going down by one for each order: the effect that is wrong as soon as one event is taken twice or not at all.
CREATE TABLE shop.stock (
    product text PRIMARY KEY,
    gone    bigint NOT NULL DEFAULT 0
);

INSERT INTO shop.customer (name) SELECT 'customer-' || n FROM generate_series(1, 40) AS n;
INSERT INTO shop.stock (product) SELECT 'product-' || n FROM generate_series(1, 20) AS n;

GRANT USAGE ON SCHEMA shop TO dovetail_app;
GRANT SELECT, UPDATE ON shop.customer, shop.stock TO dovetail_app;
GRANT SELECT, INSERT ON shop.orders TO dovetail_app;
