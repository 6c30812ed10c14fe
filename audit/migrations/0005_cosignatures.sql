-- Cosignatures of checkpoints by witnesses (C2SP tlog-cosignature), as lines of the checkpoint's note.
CREATE TABLE signet.cosignatures (
    log_id      smallint NOT NULL REFERENCES signet.logs,
    size        bigint NOT NULL,
    witness     text NOT NULL,
    line        text NOT NULL,
    received_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (log_id, size, witness)
);
CREATE TRIGGER cosignatures_unchanged BEFORE UPDATE OR DELETE ON signet.cosignatures
    FOR EACH ROW EXECUTE FUNCTION signet.refuse_change();
CREATE TRIGGER cosignatures_kept BEFORE TRUNCATE ON signet.cosignatures
    FOR EACH STATEMENT EXECUTE FUNCTION signet.refuse_change();
DO $$ BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'signet_ingest') THEN
        GRANT SELECT, INSERT ON signet.cosignatures TO signet_ingest;
    END IF;
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'signet_auditor') THEN
        GRANT SELECT ON signet.cosignatures TO signet_auditor;
    END IF;
END $$;
