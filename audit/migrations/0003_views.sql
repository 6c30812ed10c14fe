-- What people write SQL against. The columns of `decisions` are a promise; `entries` may grow.
-- Joins are outer, so that a missing dictionary row cannot hide a record.
CREATE VIEW signet.entries AS
SELECT r.id,
       r.time,
       l.origin AS log,
       e.producer,
       s.value AS source_spiffe_id,
       d.value AS destination_spiffe_id,
       v.value AS destination_service,
       a.value AS action,
       COALESCE(r.path, o.path) AS path,
       r.allow,
       (ARRAY['decision', 'event', 'refusal', 'gap'])[r.kind + 1] AS kind,
       (ARRAY['enforce', 'shadow'])[r.enforcement + 1] AS enforcement,
       p.policy_ids,
       c.value AS policy_commit,
       g.value AS bundle_digest,
       n.value AS reason,
       o.source_address,
       t.value AS tls,
       r.trace_id,
       r.latency_us,
       r.count,
       r.shadow_allow,
       sp.policy_ids AS shadow_policy_ids,
       r.detail,
       e.epoch,
       r.sequence,
       r.leaf_index,
       r.received_at,
       r.log_id,
       r.kind AS kind_code,
       r.source_id,
       r.service_id,
       r.canonical,
       o.opened
FROM signet.records r
LEFT JOIN signet.logs l ON l.id = r.log_id
LEFT JOIN signet.epochs e ON e.id = r.epoch_id
LEFT JOIN signet.services v ON v.id = r.service_id
LEFT JOIN signet.labels a ON a.id = r.action_id
LEFT JOIN signet.policy_sets p ON p.id = r.policy_set_id
LEFT JOIN signet.labels c ON c.id = r.commit_id
LEFT JOIN signet.labels g ON g.id = r.digest_id
LEFT JOIN signet.labels n ON n.id = r.reason_id
LEFT JOIN signet.labels t ON t.id = r.tls_id
LEFT JOIN signet.identities s ON s.id = r.source_id
LEFT JOIN signet.identities d ON d.id = r.destination_id
LEFT JOIN signet.policy_sets sp ON sp.id = r.shadow_set_id
LEFT JOIN signet.openings o ON o.log_id = r.log_id AND o.leaf_index = r.leaf_index;

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

-- Makes the views findable without a schema name. Needs ownership of the database; without it, set it by hand.
DO $$ BEGIN
    EXECUTE format('ALTER DATABASE %I SET search_path = signet, public', current_database());
EXCEPTION WHEN insufficient_privilege THEN
    RAISE NOTICE 'signet: cannot set search_path of this database; do it as its owner';
END $$;
