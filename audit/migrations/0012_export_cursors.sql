-- How far each continuous export of a log has come: leaves below `leaf` were taken by its receiver.
CREATE TABLE signet.export_cursors (
    log_id   smallint NOT NULL REFERENCES signet.logs,
    name     text NOT NULL,
    leaf     bigint NOT NULL DEFAULT 0 CHECK (leaf >= 0),
    moved_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (log_id, name)
);
DO $$ BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'signet_ingest') THEN
        GRANT SELECT, INSERT, UPDATE ON signet.export_cursors TO signet_ingest;
    END IF;
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'signet_auditor') THEN
        GRANT SELECT ON signet.export_cursors TO signet_auditor;
    END IF;
END $$;
