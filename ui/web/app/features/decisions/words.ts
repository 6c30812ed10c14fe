// Stable reasons of records, in words.

const WORDS: Readonly<Record<string, string>> = {
  permitted: "a policy permits it",
  forbidden: "a policy forbids it",
  no_permit: "no policy permits it",
  policy_error: "a forbid could not be evaluated",
  unknown_route: "no such route is declared",
  unknown_service: "not a service of this mesh",
  rate_limited: "the client exceeded its rate",
  not_exported: "the service is not exported",
  no_bundle: "no policy bundle yet",
  not_tls: "plaintext on a strict port",
  tls12: "TLS older than 1.3",
  no_certificate: "no client certificate",
  unknown_trust_domain: "unknown trust domain",
  wrong_trust_domain_root: "signed by another trust domain",
  expired: "expired SVID",
  not_yet_valid: "SVID not valid yet",
  not_one_uri: "not exactly one SPIFFE ID",
  ca_leaf: "a CA certificate as SVID",
  bad_spiffe_id: "malformed SPIFFE ID",
  key_usage: "a certificate not made for this",
  invalid_request: "a malformed request",
  path_not_absolute: "a path that is not absolute",
  path_character: "a forbidden character in the path",
  path_separator: "a hidden separator in the path",
  path_escape: "a malformed escape in the path",
  path_traversal: "a path that leads outside",
  path_query: "a query inside the path",
  not_allowed: "this peer may not connect",
  alpn: "no mesh protocol offered",
  timeout: "timed out",
  protocol: "malformed protocol",
};

export function reasonWords(reason: string): string {
  return WORDS[reason] ?? reason.replaceAll("_", " ");
}
