-- Roles, where this user may make them: `signet_ingest` adds, `signet_auditor` reads. Roles are shared by all databases
-- of a PostgreSQL server, so that another database may be making them at this moment.
DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['signet_ingest', 'signet_auditor'] LOOP
        BEGIN
            IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = name) THEN
                EXECUTE format('CREATE ROLE %I NOLOGIN', name);
            END IF;
        EXCEPTION
            WHEN insufficient_privilege THEN RAISE NOTICE 'signet: role % not made: no privilege', name;
            WHEN duplicate_object OR unique_violation THEN NULL;
        END;
    END LOOP;
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'signet_ingest') THEN
        GRANT USAGE ON SCHEMA signet TO signet_ingest;
        GRANT SELECT, INSERT ON ALL TABLES IN SCHEMA signet TO signet_ingest;
        GRANT UPDATE ON signet.logs, signet.epochs, signet.tiles TO signet_ingest;
        GRANT USAGE ON ALL SEQUENCES IN SCHEMA signet TO signet_ingest;
    END IF;
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'signet_auditor') THEN
        GRANT USAGE ON SCHEMA signet TO signet_auditor;
        GRANT SELECT ON ALL TABLES IN SCHEMA signet TO signet_auditor;
    END IF;
END $$;
