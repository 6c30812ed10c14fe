-- Small rows: a record's canonical bytes are put together again from its row and the dictionaries (audit/src/store/compact)
-- instead of being stored beside them.
DO $$ BEGIN
    IF EXISTS (SELECT FROM signet.records) THEN
        RAISE EXCEPTION 'signet: this database holds records in the form of an earlier signet-audit, which this one does not read; '
            'export them with that version (signet audit evidence), keep the database for its signet audit verify, and begin a '
            'new log: another database_url and log_key_file'
            USING ERRCODE = 'feature_not_supported';
    END IF;
END $$;

DROP VIEW signet.decisions, signet.events, signet.entries;
DROP TABLE signet.openings;
DROP TABLE signet.records;

-- What all calls of one kind have in common. `key` is the start of a SHA-256 of the values.
CREATE TABLE signet.shapes (
    id             integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    key            bytea NOT NULL UNIQUE,
    destination_id integer,
    action_id      integer NOT NULL,
    policy_set_id  integer NOT NULL,
    commit_id      integer NOT NULL,
    digest_id      integer NOT NULL,
    reason_id      integer NOT NULL,
    tls_id         integer NOT NULL,
    shadow_set_id  integer,
    shadow_allow   boolean,
    enforcement    smallint NOT NULL,
    personal_path  boolean NOT NULL
);

-- The values that policies could read, as in the canonical encoding but without commitments.
CREATE TABLE signet.contexts (
    id       integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    key      bytea NOT NULL UNIQUE,
    template bytea NOT NULL
);

-- Records of one epoch that follow each other in the log as in its sequence.
CREATE TABLE signet.runs (
    first_leaf     bigint NOT NULL CHECK (first_leaf >= 0),
    first_sequence bigint NOT NULL CHECK (first_sequence > 0),
    received_at    timestamptz NOT NULL,
    epoch_id       integer NOT NULL REFERENCES signet.epochs,
    records        integer NOT NULL CHECK (records BETWEEN 1 AND 20000),
    log_id         smallint NOT NULL REFERENCES signet.logs,
    PRIMARY KEY (log_id, first_leaf),
    UNIQUE (epoch_id, first_sequence)
);

-- In the order that wastes least; a row without NULLs has no bitmap of them. `personal` and `rest` are described in
-- audit/src/store/compact/{personal,rest}.rs. Sequences and times of receipt are in `runs`.
CREATE TABLE signet.records (
    time       timestamptz NOT NULL,
    leaf_index bigint NOT NULL,
    epoch_id   integer NOT NULL,
    source_id  integer,
    service_id integer NOT NULL,
    shape_id   integer NOT NULL,
    context_id integer NOT NULL,
    latency_us integer,
    log_id     smallint NOT NULL,
    kind       smallint NOT NULL,
    allow      boolean NOT NULL,
    id         uuid NOT NULL,
    trace_id   uuid,
    path       text,
    personal   bytea NOT NULL,
    rest       bytea NOT NULL
) PARTITION BY RANGE (time);
CREATE TABLE signet.records_default PARTITION OF signet.records DEFAULT;

-- None of them is unique: a leaf's place is taken under the lock of its log and written in `runs`, where it is unique.
CREATE INDEX records_by_leaf ON signet.records (leaf_index, log_id);
CREATE INDEX records_by_time ON signet.records (time);
CREATE INDEX records_by_id ON signet.records (id);
CREATE INDEX records_by_source ON signet.records (source_id, time);
CREATE INDEX records_by_service ON signet.records (service_id, time);
CREATE INDEX records_denied ON signet.records (time) WHERE NOT allow;
CREATE INDEX records_events ON signet.records (time) WHERE kind IN (1, 3);
CREATE INDEX records_by_trace ON signet.records (trace_id) WHERE trace_id IS NOT NULL;

-- What a record stands for, beyond 1.
CREATE FUNCTION signet.count(rest bytea) RETURNS bigint LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE WHEN length(rest) < 9 OR get_byte(rest, 0) & 1 = 0 THEN 1
                ELSE ('x' || encode(substr(rest, 2, 8), 'hex'))::bit(64)::bigint END
$$;

CREATE FUNCTION signet.detail(rest bytea) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE WHEN length(rest) < 5 OR get_byte(rest, 0) & 2 = 0 THEN NULL
                ELSE convert_from(substr(rest, 6 + 8 * (get_byte(rest, 0) & 1),
                    ('x' || encode(substr(rest, 2 + 8 * (get_byte(rest, 0) & 1), 4), 'hex'))::bit(32)::integer), 'UTF8') END
$$;

-- The packed personal values of a record, one by one: form, field, salt or commitment, value.
CREATE FUNCTION signet.personal_values(personal bytea,
    OUT form integer, OUT field bigint, OUT salt bytea, OUT value bytea)
RETURNS SETOF record LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
DECLARE
    at    integer := 1;
    size  integer;
    ip    bytea;
BEGIN
    WHILE at <= length(personal) LOOP
        form := get_byte(personal, at - 1);
        at := at + 1;
        IF form IN (0, 1) THEN
            field := ('x' || encode(substr(personal, at, 4), 'hex'))::bit(32)::bigint;
            at := at + 4;
        ELSIF form = 4 THEN
            field := 65536 + get_byte(personal, at - 1);
            at := at + 1;
        ELSE
            field := 17;
        END IF;
        IF form = 0 THEN
            salt := NULL;
            value := substr(personal, at, 32);
            at := at + 32;
            RETURN NEXT;
            CONTINUE;
        END IF;
        salt := substr(personal, at, 16);
        at := at + 16;
        IF form = 1 THEN
            size := ('x' || encode(substr(personal, at, 4), 'hex'))::bit(32)::integer;
            value := substr(personal, at + 4, size);
            at := at + 4 + size;
        ELSIF form IN (2, 3) THEN
            size := CASE form WHEN 2 THEN 4 ELSE 16 END;
            ip := convert_to(signet.address_text(substr(personal, at, size)), 'UTF8');
            value := CASE form WHEN 2 THEN ip ELSE '\x5b'::bytea || ip || '\x5d'::bytea END
                || convert_to(':' || ('x' || encode(substr(personal, at + size, 2), 'hex'))::bit(16)::integer, 'UTF8');
            at := at + size + 2;
        ELSE
            value := ip;
        END IF;
        RETURN NEXT;
    END LOOP;
END $$;

CREATE FUNCTION signet.address_text(octets bytea) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE length(octets)
        WHEN 4 THEN concat_ws('.', get_byte(octets, 0), get_byte(octets, 1), get_byte(octets, 2), get_byte(octets, 3))
        ELSE host(regexp_replace(encode(octets, 'hex'), '(....)(?!$)', '\1:', 'g')::inet) END
$$;

-- A personal value as text; NULL when there is none or it was erased. Field 17 is the source address, 10 the path.
CREATE FUNCTION signet.opened(personal bytea, wanted bigint) RETURNS text LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
DECLARE
    found bytea;
    nul   integer;
BEGIN
    IF length(personal) = 0 THEN
        RETURN NULL;
    END IF;
    SELECT v.value INTO found FROM signet.personal_values(personal) v WHERE v.field = wanted AND v.form <> 0;
    LOOP
        -- Text has no NUL: the replacement character stands for it.
        nul := position('\x00'::bytea IN found);
        EXIT WHEN nul IS NULL OR nul = 0;
        found := overlay(found PLACING '\xefbfbd'::bytea FROM nul FOR 1);
    END LOOP;
    RETURN convert_from(found, 'UTF8');
END $$;

-- The same with every value replaced by its commitment, which is what the canonical bytes hold (docs/record-encoding.md).
CREATE FUNCTION signet.erased(personal bytea) RETURNS bytea LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT COALESCE(string_agg('\x00'::bytea || int4send(v.field::integer) || CASE v.form WHEN 0 THEN v.value
        ELSE sha256('signet-record-commitment-v1'::bytea || '\x00'::bytea || int4send(v.field::integer) || v.salt || v.value) END,
        ''::bytea ORDER BY v.field), ''::bytea)
    FROM signet.personal_values(personal) v
$$;

-- Erases what of a record is personal; the log and every proof stay valid. Says whether there is such a record.
CREATE FUNCTION signet.erase(log_origin text, leaf bigint) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    UPDATE signet.records SET personal = signet.erased(personal)
    WHERE leaf_index = leaf AND log_id = (SELECT l.id FROM signet.logs l WHERE l.origin = log_origin);
    RETURN FOUND;
END $$;

CREATE OR REPLACE FUNCTION signet.refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'signet: % on %.% is refused: records are never changed', TG_OP, TG_TABLE_SCHEMA, TG_TABLE_NAME
        USING ERRCODE = 'insufficient_privilege',
              HINT = 'Personal values are erased by signet.erase(log, leaf); old days leave with their partition.';
END $$;

-- Erasing is the one change that is let through.
CREATE FUNCTION signet.refuse_unless_erasing() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.personal = signet.erased(OLD.personal) THEN
        OLD.personal := NEW.personal;
        IF OLD IS NOT DISTINCT FROM NEW THEN
            RETURN NEW;
        END IF;
    END IF;
    RAISE EXCEPTION 'signet: % on %.% is refused: records are never changed', TG_OP, TG_TABLE_SCHEMA, TG_TABLE_NAME
        USING ERRCODE = 'insufficient_privilege',
              HINT = 'Personal values are erased by signet.erase(log, leaf); old days leave with their partition.';
END $$;

CREATE TRIGGER records_unchanged BEFORE UPDATE ON signet.records
    FOR EACH ROW EXECUTE FUNCTION signet.refuse_unless_erasing();
CREATE TRIGGER records_not_deleted BEFORE DELETE ON signet.records
    FOR EACH ROW EXECUTE FUNCTION signet.refuse_change();
CREATE TRIGGER records_kept BEFORE TRUNCATE ON signet.records
    FOR EACH STATEMENT EXECUTE FUNCTION signet.refuse_change();
CREATE TRIGGER records_kept BEFORE TRUNCATE ON signet.records_default
    FOR EACH STATEMENT EXECUTE FUNCTION signet.refuse_change();
DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['runs', 'shapes', 'contexts', 'identities', 'services', 'labels', 'policy_sets'] LOOP
        EXECUTE format('CREATE TRIGGER %I BEFORE UPDATE OR DELETE ON signet.%I
            FOR EACH ROW EXECUTE FUNCTION signet.refuse_change()', name || '_unchanged', name);
        EXECUTE format('CREATE TRIGGER %I BEFORE TRUNCATE ON signet.%I
            FOR EACH STATEMENT EXECUTE FUNCTION signet.refuse_change()', name || '_kept', name);
    END LOOP;
END $$;

SELECT signet.make_partitions(7);

-- The columns of `decisions` are a promise; `entries` may grow. Joins are outer, so that a missing dictionary row cannot
-- hide a record.
CREATE VIEW signet.entries AS
SELECT r.id,
       r.time,
       l.origin AS log,
       e.producer,
       s.value AS source_spiffe_id,
       d.value AS destination_spiffe_id,
       v.value AS destination_service,
       a.value AS action,
       CASE WHEN h.personal_path THEN signet.opened(r.personal, 10) ELSE r.path END AS path,
       r.allow,
       (ARRAY['decision', 'event', 'refusal', 'gap'])[r.kind + 1] AS kind,
       (ARRAY['enforce', 'shadow'])[h.enforcement + 1] AS enforcement,
       p.policy_ids,
       c.value AS policy_commit,
       g.value AS bundle_digest,
       n.value AS reason,
       signet.opened(r.personal, 17) AS source_address,
       t.value AS tls,
       replace(r.trace_id::text, '-', '') AS trace_id,
       r.latency_us::bigint AS latency_us,
       signet.count(r.rest) AS count,
       h.shadow_allow,
       sp.policy_ids AS shadow_policy_ids,
       signet.detail(r.rest) AS detail,
       e.epoch,
       (SELECT u.first_sequence + r.leaf_index - u.first_leaf FROM signet.runs u
        WHERE u.log_id = r.log_id AND u.first_leaf <= r.leaf_index ORDER BY u.first_leaf DESC LIMIT 1) AS sequence,
       r.leaf_index,
       (SELECT u.received_at FROM signet.runs u
        WHERE u.log_id = r.log_id AND u.first_leaf <= r.leaf_index ORDER BY u.first_leaf DESC LIMIT 1) AS received_at,
       r.log_id,
       r.kind AS kind_code,
       r.epoch_id,
       r.source_id,
       r.service_id,
       r.shape_id,
       r.context_id,
       r.trace_id AS trace_uuid,
       r.path AS plain_path,
       r.personal,
       r.rest
FROM signet.records r
LEFT JOIN signet.logs l ON l.id = r.log_id
LEFT JOIN signet.epochs e ON e.id = r.epoch_id
LEFT JOIN signet.services v ON v.id = r.service_id
LEFT JOIN signet.identities s ON s.id = r.source_id
LEFT JOIN signet.shapes h ON h.id = r.shape_id
LEFT JOIN signet.labels a ON a.id = h.action_id
LEFT JOIN signet.policy_sets p ON p.id = h.policy_set_id
LEFT JOIN signet.labels c ON c.id = h.commit_id
LEFT JOIN signet.labels g ON g.id = h.digest_id
LEFT JOIN signet.labels n ON n.id = h.reason_id
LEFT JOIN signet.labels t ON t.id = h.tls_id
LEFT JOIN signet.identities d ON d.id = h.destination_id
LEFT JOIN signet.policy_sets sp ON sp.id = h.shadow_set_id;

CREATE VIEW signet.decisions AS
SELECT id AS decision_id, time, log, producer AS proxy, source_spiffe_id, destination_spiffe_id, destination_service,
       action, path, CASE WHEN allow THEN 'allow' ELSE 'deny' END AS decision, enforcement, policy_ids, policy_commit,
       bundle_digest, reason, source_address, tls, trace_id, latency_us
FROM signet.entries
WHERE kind_code IN (0, 2);

CREATE VIEW signet.events AS
SELECT id AS event_id, time, log, producer, kind, action, source_spiffe_id AS subject, destination_service AS object,
       allow AS succeeded, reason, detail, policy_commit, bundle_digest
FROM signet.entries
WHERE kind_code IN (1, 3);

DO $$ BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'signet_ingest') THEN
        GRANT SELECT, INSERT ON signet.records, signet.runs, signet.shapes, signet.contexts TO signet_ingest;
        GRANT SELECT ON signet.entries, signet.decisions, signet.events TO signet_ingest;
    END IF;
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'signet_auditor') THEN
        GRANT SELECT ON ALL TABLES IN SCHEMA signet TO signet_auditor;
    END IF;
END $$;
