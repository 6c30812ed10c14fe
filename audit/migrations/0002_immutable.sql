-- What was recorded stays: no UPDATE, DELETE or TRUNCATE on records and checkpoints, whoever asks.
CREATE FUNCTION signet.refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'signet: % on %.% is refused: records are never changed', TG_OP, TG_TABLE_SCHEMA, TG_TABLE_NAME
        USING ERRCODE = 'insufficient_privilege',
              HINT = 'Personal values are erased in signet.openings; old days leave with their partition.';
END $$;

CREATE TRIGGER records_unchanged BEFORE UPDATE OR DELETE ON signet.records
    FOR EACH ROW EXECUTE FUNCTION signet.refuse_change();
CREATE TRIGGER records_kept BEFORE TRUNCATE ON signet.records
    FOR EACH STATEMENT EXECUTE FUNCTION signet.refuse_change();
CREATE TRIGGER records_kept BEFORE TRUNCATE ON signet.records_default
    FOR EACH STATEMENT EXECUTE FUNCTION signet.refuse_change();
CREATE TRIGGER checkpoints_unchanged BEFORE UPDATE OR DELETE ON signet.checkpoints
    FOR EACH ROW EXECUTE FUNCTION signet.refuse_change();
CREATE TRIGGER checkpoints_kept BEFORE TRUNCATE ON signet.checkpoints
    FOR EACH STATEMENT EXECUTE FUNCTION signet.refuse_change();

-- Makes the partitions of today and the given number of days after it. A day for which the default partition already
-- holds rows (a producer's clock was ahead) is left there: nothing is ever refused.
CREATE FUNCTION signet.make_partitions(days integer) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    first date := (now() AT TIME ZONE 'UTC')::date - 1;
    day   date;
    name  text;
    made  integer := 0;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('signet.make_partitions'));
    FOR day IN SELECT first + n FROM generate_series(0, days + 1) AS n LOOP
        name := 'records_' || to_char(day, 'YYYYMMDD');
        CONTINUE WHEN to_regclass('signet.' || name) IS NOT NULL;
        BEGIN
            EXECUTE format('CREATE TABLE signet.%I PARTITION OF signet.records FOR VALUES FROM (%L) TO (%L)',
                name, day::text || ' 00:00:00+00', (day + 1)::text || ' 00:00:00+00');
            EXECUTE format('CREATE TRIGGER records_kept BEFORE TRUNCATE ON signet.%I
                FOR EACH STATEMENT EXECUTE FUNCTION signet.refuse_change()', name);
            made := made + 1;
        EXCEPTION WHEN check_violation THEN
            RAISE NOTICE 'signet: % stays in the default partition', day;
        END;
    END LOOP;
    RETURN made;
END $$;
SELECT signet.make_partitions(7);
