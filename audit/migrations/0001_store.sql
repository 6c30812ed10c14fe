-- The audit store. Several audit services of different clusters may share one database: every row names its log.
-- Rows of `records` and `checkpoints` are never changed; personal values live in `openings`, which alone can be erased.
CREATE SCHEMA IF NOT EXISTS signet;

-- One log per trust domain. `size` and `root` move in the same transaction as the records; `FOR UPDATE` on this row
-- is what makes leaf indexes dense when several services ingest at once.
CREATE TABLE signet.logs (
    id           smallint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    origin       text NOT NULL UNIQUE,
    trust_domain text NOT NULL,
    verifier_key text NOT NULL,
    size         bigint NOT NULL DEFAULT 0 CHECK (size >= 0),
    root         bytea NOT NULL CHECK (length(root) = 32),
    created_at   timestamptz NOT NULL DEFAULT now()
);

-- Dictionaries: what repeats in every record is stored once. `key` is the start of the value's SHA-256, because a
-- hostile value may be longer than an index entry.
CREATE TABLE signet.identities (
    id    integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    key   bytea NOT NULL UNIQUE,
    value text NOT NULL
);
CREATE TABLE signet.services (
    id    integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    key   bytea NOT NULL UNIQUE,
    value text NOT NULL
);
-- Actions, reasons, TLS descriptions, commits and bundle digests.
CREATE TABLE signet.labels (
    id    integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    key   bytea NOT NULL UNIQUE,
    value text NOT NULL
);
-- Sets of policy ids, joined by newlines in `value`.
CREATE TABLE signet.policy_sets (
    id    integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    key   bytea NOT NULL UNIQUE,
    value text NOT NULL,
    policy_ids text[] NOT NULL GENERATED ALWAYS AS
        (CASE WHEN value = '' THEN '{}'::text[] ELSE string_to_array(value, E'\n') END) STORED
);

-- One opening of one producer's spool. `watermark` is the last sequence committed; it moves with the records.
CREATE TABLE signet.epochs (
    id         integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    log_id     smallint NOT NULL REFERENCES signet.logs,
    epoch      uuid NOT NULL,
    producer   text NOT NULL,
    watermark  bigint NOT NULL DEFAULT 0,
    missing    bigint NOT NULL DEFAULT 0 CHECK (missing >= 0),
    closed     boolean NOT NULL DEFAULT false,
    first_seen timestamptz NOT NULL DEFAULT now(),
    last_seen  timestamptz NOT NULL DEFAULT now(),
    clock_offset_us bigint,
    UNIQUE (log_id, epoch)
);

CREATE TABLE signet.records (
    time           timestamptz NOT NULL,
    received_at    timestamptz NOT NULL,
    leaf_index     bigint NOT NULL,
    sequence       bigint NOT NULL,
    count          bigint NOT NULL,
    latency_us     bigint,
    id             uuid NOT NULL,
    epoch_id       integer NOT NULL,
    source_id      integer,
    destination_id integer,
    service_id     integer NOT NULL,
    action_id      integer NOT NULL,
    policy_set_id  integer NOT NULL,
    commit_id      integer NOT NULL,
    digest_id      integer NOT NULL,
    reason_id      integer NOT NULL,
    tls_id         integer NOT NULL,
    shadow_set_id  integer,
    log_id         smallint NOT NULL,
    kind           smallint NOT NULL,
    enforcement    smallint NOT NULL,
    allow          boolean NOT NULL,
    shadow_allow   boolean,
    path           text,
    trace_id       text,
    detail         text,
    canonical      bytea NOT NULL,
    -- A duplicate carries the same bytes, so the same time: these hold across partitions.
    UNIQUE (log_id, leaf_index, time),
    UNIQUE (log_id, epoch_id, sequence, time)
) PARTITION BY RANGE (time);
ALTER TABLE signet.records ALTER COLUMN canonical SET STORAGE EXTERNAL;
CREATE TABLE signet.records_default PARTITION OF signet.records DEFAULT;

CREATE INDEX records_by_time ON signet.records (time, id);
CREATE INDEX records_by_id ON signet.records (id);
CREATE INDEX records_by_source ON signet.records (source_id, time, id);
CREATE INDEX records_by_service ON signet.records (service_id, time, id);
CREATE INDEX records_denied ON signet.records (time, id) WHERE NOT allow;
CREATE INDEX records_events ON signet.records (time, id) WHERE kind IN (1, 3);
CREATE INDEX records_by_trace ON signet.records (trace_id) WHERE trace_id IS NOT NULL;

-- Values that a person may ask to have erased; the records hold only salted commitments to them. `opened` has every
-- opening of the record (protobuf `signet.audit.v1.Entry` with openings only), the other columns are for reading.
CREATE TABLE signet.openings (
    log_id         smallint NOT NULL,
    leaf_index     bigint NOT NULL,
    source_address text,
    path           text,
    opened         bytea NOT NULL,
    PRIMARY KEY (log_id, leaf_index)
);

-- Policy bundles, by content: kept for as long as records that name them. Commits with equal files share a bundle.
CREATE TABLE signet.bundles (
    digest    text PRIMARY KEY,
    stored_at timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE signet.bundle_commits (
    digest    text NOT NULL REFERENCES signet.bundles,
    commit    text NOT NULL,
    signer    text NOT NULL,
    stored_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (digest, commit)
);
CREATE TABLE signet.bundle_files (
    digest  text NOT NULL REFERENCES signet.bundles,
    path    text NOT NULL,
    content text NOT NULL,
    PRIMARY KEY (digest, path)
);

-- The Merkle tree, in tiles of up to 256 hashes; the last tile of a level grows.
CREATE TABLE signet.tiles (
    log_id     smallint NOT NULL REFERENCES signet.logs,
    level      smallint NOT NULL,
    tile_index bigint NOT NULL,
    hashes     bytea NOT NULL CHECK (length(hashes) % 32 = 0 AND length(hashes) <= 8192),
    PRIMARY KEY (log_id, level, tile_index)
);
ALTER TABLE signet.tiles ALTER COLUMN hashes SET STORAGE EXTERNAL;

CREATE TABLE signet.checkpoints (
    log_id    smallint NOT NULL REFERENCES signet.logs,
    size      bigint NOT NULL,
    root      bytea NOT NULL,
    note      text NOT NULL,
    signed_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (log_id, size)
);
