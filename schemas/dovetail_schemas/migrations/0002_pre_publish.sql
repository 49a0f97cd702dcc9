-- Dovetail 0002: publishing from any language, and whether a relay reads logical messages.

-- The writers of logical messages ask here first: a message that no relay reads is lost without a word.
ALTER TABLE dovetail.relay ADD COLUMN messages boolean NOT NULL DEFAULT false;
GRANT SELECT (messages) ON dovetail.relay TO dovetail_app;

-- The newest schema of a type, or an error that says how to get one.
CREATE FUNCTION dovetail.newest_schema(type text) RETURNS bytea
LANGUAGE plpgsql STABLE SECURITY INVOKER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    found bytea;
BEGIN
    SELECT version.fingerprint INTO found
    FROM dovetail.event_schema_version AS version
    WHERE version.subject = newest_schema.type
    ORDER BY version.version DESC
    LIMIT 1;
    IF found IS NULL THEN
        RAISE EXCEPTION 'dovetail.publish: type "%" has no schema in this database', left(newest_schema.type, 80)
            USING ERRCODE = 'undefined_object',
                HINT = 'Register one first, from Python: dovetail.register(conn, …) at start-up or deployment. JSON for '
                    'a route with value = "passthrough" needs none: dovetail.publish_json.';
    END IF;
    RETURN found;
END
$$;

-- What the SDK refuses before it inserts: headers that are no strings, or whose names the relay sets itself.
CREATE FUNCTION dovetail.check_headers(headers jsonb) RETURNS void
LANGUAGE plpgsql IMMUTABLE SECURITY INVOKER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    header record;
BEGIN
    IF headers = '{}' THEN
        RETURN;
    END IF;
    IF octet_length(headers::text) > 32768 THEN
        RAISE EXCEPTION 'dovetail.publish: the headers have % bytes; at most 32768 are allowed', octet_length(headers::text)
            USING ERRCODE = 'invalid_parameter_value', HINT = 'What is large belongs into the payload.';
    END IF;
    IF jsonb_typeof(headers) <> 'object' THEN
        RAISE EXCEPTION 'dovetail.publish: headers are a JSON %, not an object', jsonb_typeof(headers)
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Headers look like {"tenant": "a"}.';
    END IF;
    FOR header IN SELECT pair.key AS name, pair.value AS value FROM jsonb_each(headers) AS pair LOOP
        IF jsonb_typeof(header.value) <> 'string' THEN
            RAISE EXCEPTION 'dovetail.publish: header "%" is a JSON %, not a string',
                left(header.name, 80), jsonb_typeof(header.value)
                USING ERRCODE = 'invalid_parameter_value', HINT = 'Headers are strings: {"attempt": "1"}.';
        END IF;
        IF header.name !~ '^[!-~]{1,200}$' OR lower(header.name) ~ '^(id|type|time|position|replay|ce_.*|dovetail_.*)$'
        THEN
            RAISE EXCEPTION 'dovetail.publish: header name "%" is not allowed', left(header.name, 80)
                USING ERRCODE = 'invalid_parameter_value',
                    HINT = 'Names are 1 to 200 printable ASCII characters; id, type, time, position, replay, ce_* and '
                        'dovetail_* are set by Dovetail.';
        END IF;
    END LOOP;
END
$$;

-- What the table's constraints would refuse, in words that do not quote the row.
CREATE FUNCTION dovetail.check_event(
    aggregatetype text, aggregateid text, type text, has_payload boolean, headers jsonb, id uuid
) RETURNS void
LANGUAGE plpgsql IMMUTABLE SECURITY INVOKER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    missing text := array_to_string(ARRAY[
        CASE WHEN aggregatetype IS NULL THEN 'aggregatetype' END,
        CASE WHEN aggregateid IS NULL THEN 'aggregateid' END,
        CASE WHEN type IS NULL THEN 'type' END,
        CASE WHEN NOT has_payload THEN 'payload' END,
        CASE WHEN headers IS NULL THEN 'headers' END,
        CASE WHEN id IS NULL THEN 'id' END
    ], ', ');
    wrong text := CASE
        WHEN octet_length(aggregatetype) NOT BETWEEN 1 AND 200
            THEN format('aggregatetype has %s bytes; 1 to 200 are allowed', octet_length(aggregatetype))
        WHEN octet_length(aggregateid) NOT BETWEEN 1 AND 1024
            THEN format('aggregateid has %s bytes; 1 to 1024 are allowed', octet_length(aggregateid))
        WHEN octet_length(type) NOT BETWEEN 1 AND 255
            THEN format('type has %s bytes; 1 to 255 are allowed', octet_length(type))
    END;
BEGIN
    IF missing <> '' THEN
        RAISE EXCEPTION 'dovetail.publish: % must not be NULL', missing
            USING ERRCODE = 'null_value_not_allowed',
                HINT = 'Leave headers and id out for their defaults; the key of the event is aggregateid.';
    END IF;
    IF wrong IS NOT NULL THEN
        RAISE EXCEPTION 'dovetail.publish: %', wrong
            USING ERRCODE = 'invalid_parameter_value', HINT = 'The aggregate id is the key of the record.';
    END IF;
    IF id = '00000000-0000-0000-0000-000000000000' THEN
        RAISE EXCEPTION 'dovetail.publish: the nil UUID cannot be an event id'
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Leave id out, and one is made.';
    END IF;
    PERFORM dovetail.check_headers(headers);
END
$$;

-- One event from any language that can run SQL, in the transaction of the caller: it neither begins nor commits one.
-- In autocommit the statement is its own transaction, and the event is not tied to any business row.
-- The row is pinned to the type's newest schema here; the relay turns the JSON into Avro by it, and holds what does not
-- fit. Runs with the rights of the caller.
CREATE FUNCTION dovetail.publish(
    aggregatetype text,
    aggregateid   text,
    type          text,
    payload       jsonb,
    headers       jsonb DEFAULT '{}',
    id            uuid DEFAULT gen_random_uuid()
) RETURNS uuid
LANGUAGE plpgsql VOLATILE SECURITY INVOKER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM dovetail.check_event(aggregatetype, aggregateid, type, payload IS NOT NULL, headers, id);
    INSERT INTO dovetail.outbox (id, aggregatetype, aggregateid, type, payload, schema_fingerprint, encoding, headers)
    VALUES (
        publish.id, publish.aggregatetype, publish.aggregateid, publish.type, convert_to(publish.payload::text, 'UTF8'),
        dovetail.newest_schema(publish.type), 'json', publish.headers
    );
    RETURN id;
END
$$;

-- The same for a route with value = "passthrough": the JSON goes out as its writer spelled it, and needs no schema.
CREATE FUNCTION dovetail.publish_json(
    aggregatetype text,
    aggregateid   text,
    type          text,
    payload       json,
    headers       jsonb DEFAULT '{}',
    id            uuid DEFAULT gen_random_uuid()
) RETURNS uuid
LANGUAGE plpgsql VOLATILE SECURITY INVOKER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM dovetail.check_event(aggregatetype, aggregateid, type, payload IS NOT NULL, headers, id);
    INSERT INTO dovetail.outbox (id, aggregatetype, aggregateid, type, payload, encoding, headers)
    VALUES (
        publish_json.id, publish_json.aggregatetype, publish_json.aggregateid, publish_json.type,
        convert_to(publish_json.payload::text, 'UTF8'), 'json', publish_json.headers
    );
    RETURN id;
END
$$;

REVOKE ALL ON FUNCTION dovetail.newest_schema(text), dovetail.check_headers(jsonb),
    dovetail.check_event(text, text, text, boolean, jsonb, uuid), dovetail.publish(text, text, text, jsonb, jsonb, uuid),
    dovetail.publish_json(text, text, text, json, jsonb, uuid) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION dovetail.newest_schema(text), dovetail.check_headers(jsonb),
    dovetail.check_event(text, text, text, boolean, jsonb, uuid), dovetail.publish(text, text, text, jsonb, jsonb, uuid),
    dovetail.publish_json(text, text, text, json, jsonb, uuid) TO dovetail_app;
