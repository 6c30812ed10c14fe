-- The source address as text, without walking through packed values where it is the first and of IPv4: lists show it on
-- every row.
CREATE FUNCTION signet.source_address(personal bytea) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE WHEN substr(personal, 1, 1) = '\x02' AND length(personal) >= 23
        THEN get_byte(personal, 17) || '.' || get_byte(personal, 18) || '.' || get_byte(personal, 19) || '.' || get_byte(personal, 20)
            || ':' || (get_byte(personal, 21) * 256 + get_byte(personal, 22))
        ELSE signet.opened(personal, 17) END
$$;

CREATE OR REPLACE VIEW signet.entries AS
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
       signet.source_address(r.personal) AS source_address,
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
