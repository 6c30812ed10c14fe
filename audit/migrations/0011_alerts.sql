-- Alerts that are on (`cleared_at` is null) and were. The log has a record of each change; this is for asking what is on now.
-- `replica` names the machine of the audit service that reports what it alone can see; empty for what all see alike.
CREATE TABLE signet.alerts (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    log_id     smallint NOT NULL REFERENCES signet.logs,
    replica    text NOT NULL,
    cause      text NOT NULL,
    subject    text NOT NULL,
    detail     text NOT NULL,
    raised_at  timestamptz NOT NULL,
    seen_at    timestamptz NOT NULL DEFAULT now(),
    cleared_at timestamptz
);
CREATE UNIQUE INDEX alerts_on ON signet.alerts (log_id, replica, cause, subject) WHERE cleared_at IS NULL;

-- When a person reviewed a log; the record of it is `event_id` in the log.
CREATE TABLE signet.reviews (
    log_id   smallint NOT NULL REFERENCES signet.logs,
    event_id uuid NOT NULL,
    at       timestamptz NOT NULL DEFAULT now(),
    reader   text NOT NULL,
    PRIMARY KEY (log_id, event_id)
);
CREATE TRIGGER reviews_unchanged BEFORE UPDATE OR DELETE ON signet.reviews
    FOR EACH ROW EXECUTE FUNCTION signet.refuse_change();
CREATE TRIGGER reviews_kept BEFORE TRUNCATE ON signet.reviews
    FOR EACH STATEMENT EXECUTE FUNCTION signet.refuse_change();

DO $$ BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'signet_ingest') THEN
        GRANT SELECT, INSERT, UPDATE ON signet.alerts TO signet_ingest;
        GRANT SELECT, INSERT ON signet.reviews TO signet_ingest;
        GRANT USAGE ON ALL SEQUENCES IN SCHEMA signet TO signet_ingest;
    END IF;
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'signet_auditor') THEN
        GRANT SELECT ON signet.alerts, signet.reviews TO signet_auditor;
    END IF;
END $$;
