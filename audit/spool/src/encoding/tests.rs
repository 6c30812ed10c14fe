//! The frozen encoding: its test vector, round trips, and everything that a decoder must refuse.

use proptest::prelude::*;

use super::*;

const VECTOR: &str = include_str!("../../tests/vectors/record-v1.hex");
const DOCUMENT: &str = include_str!("../../../../docs/record-encoding.md");

/// The record of the test vector in `docs/record-encoding.md`.
fn vector() -> Record {
    Record {
        id: uuid::Uuid::from_u128(0x0192_f5d0_8b7a_7c3e_9a41_5b6c_7d8e_9f00),
        time_us: 1_795_000_000_123_456,
        kind: Kind::Decision,
        producer: "spiffe://east.bank.example/ns/bank/proxy/ledger".into(),
        source_spiffe_id: Some("spiffe://east.bank.example/ns/bank/sa/web".into()),
        destination_spiffe_id: Some("spiffe://east.bank.example/ns/bank/sa/ledger".into()),
        destination_service: "east.bank.example/bank/ledger".into(),
        action: "http:GET".into(),
        path: Some("/accounts/1".into()),
        personal_path: true,
        allow: true,
        enforcement: Enforcement::Enforce,
        policy_ids: vec!["web-reads-accounts".into()],
        policy_commit: "0123456789abcdef0123456789abcdef01234567".into(),
        bundle_digest: "sha256:00".into(),
        reason: "permitted".into(),
        source_address: Some("127.0.0.1:40000".into()),
        tls: "TLSv1.3 X25519MLKEM768 TLS13_AES_256_GCM_SHA384".into(),
        trace_id: Some("4bf92f3577b34da6a3ce929d0e0e4736".into()),
        latency_us: Some(87),
        context: vec![
            ("host".into(), "ledger.bank.svc.cluster.local".into()),
            ("src_ip".into(), "127.0.0.1".into()),
            ("dst_port".into(), "80".into()),
        ],
        count: 1,
        detail: None,
        shadow: Some((false, vec!["no-reads-at-night".into()])),
        erased: vec![],
    }
}

fn hex_lines(text: &str) -> String {
    text.split_whitespace().collect()
}

#[test]
fn encodes_the_test_vector_of_the_document() {
    let encoded = vector().encode(&mut Salts::fixed(0xa0)).unwrap();
    let hex = hex::encode(&encoded.canonical);
    assert_eq!(hex, hex_lines(VECTOR), "the encoding of version 1 is frozen");
    assert!(hex_lines(DOCUMENT).contains(&hex), "docs/record-encoding.md shows other bytes");
    let leaf = hex::encode(leaf_hash(&encoded.canonical));
    assert!(DOCUMENT.contains(&leaf), "docs/record-encoding.md lacks the leaf hash {leaf}");
    assert_eq!(Record::decode(&encoded.canonical, &encoded.openings).unwrap(), vector());
}

#[test]
fn personal_values_are_not_in_the_canonical_bytes() {
    let encoded = vector().encode(&mut Salts::new()).unwrap();
    for value in ["127.0.0.1", "/accounts/1"] {
        assert!(!encoded.canonical.windows(value.len()).any(|window| window == value.as_bytes()), "{value}");
    }
    let fields: Vec<u32> = encoded.openings.iter().map(|opening| opening.field).collect();
    assert_eq!(fields, [10, 17, 0x0001_0001]);
}

#[test]
fn erased_values_are_named_and_the_rest_is_still_read() {
    let encoded = vector().encode(&mut Salts::new()).unwrap();
    let record = Record::decode(&encoded.canonical, &encoded.openings[1..2]).unwrap();
    assert_eq!(record.erased, [10, 0x0001_0001]);
    assert_eq!((record.path, record.source_address), (None, vector().source_address));
    assert_eq!(record.context[1], ("src_ip".to_owned(), String::new()));
}

#[test]
fn rejects_openings_that_do_not_fit() {
    let encoded = vector().encode(&mut Salts::new()).unwrap();
    let with = |change: &dyn Fn(&mut Vec<Opening>)| {
        let mut openings = encoded.openings.clone();
        change(&mut openings);
        Record::decode(&encoded.canonical, &openings).unwrap_err()
    };
    let field = |error| match error {
        DecodeError::Opening { field, .. } => field,
        other => panic!("{other}"),
    };
    assert_eq!(field(with(&|o| o[0].value = b"/other".to_vec())), 10);
    assert_eq!(field(with(&|o| o[1].salt[0] ^= 1)), 17);
    assert_eq!(field(with(&|o| o.swap(0, 1))), 10);
    assert_eq!(field(with(&|o| o.insert(1, o[0].clone()))), 10);
    assert_eq!(field(with(&|o| o[0].field = 9)), 9);
    assert_eq!(field(with(&|o| o[2].field = 0x0001_0009)), 0x0001_0009);
}

/// Byte ranges of the fields of an encoding.
fn fields_of(canonical: &[u8]) -> Vec<std::ops::Range<usize>> {
    let mut at = 1;
    let mut out = Vec::new();
    while at < canonical.len() {
        let length = u32::from_be_bytes(canonical[at + 2..at + 6].try_into().unwrap()) as usize;
        out.push(at..at + 6 + length);
        at += 6 + length;
    }
    out
}

#[test]
fn rejects_every_cut_swap_repeat_omission_and_trailing_byte() {
    let encoded = vector().encode(&mut Salts::new()).unwrap();
    let bytes = &encoded.canonical;
    let refuses = |changed: &[u8], what: &str| {
        assert!(Record::decode(changed, &encoded.openings).is_err(), "accepted {what}");
    };
    for end in 0..bytes.len() {
        refuses(&bytes[..end], &format!("a cut at {end}"));
    }
    let mut longer = bytes.clone();
    longer.push(0);
    refuses(&longer, "a trailing byte");
    let fields = fields_of(bytes);
    for (index, field) in fields.iter().enumerate() {
        let mut repeated = bytes.clone();
        repeated.splice(field.end..field.end, bytes[field.clone()].iter().copied());
        refuses(&repeated, &format!("field {index} twice"));
        if let Some(next) = fields.get(index + 1) {
            let swapped =
                [&bytes[..field.start], &bytes[next.clone()], &bytes[field.clone()], &bytes[next.end..]].concat();
            refuses(&swapped, &format!("field {index} after its successor"));
        }
    }
    let unknown = [&bytes[..], &[0, 26, 0, 0, 0, 0]].concat();
    assert!(matches!(Record::decode(&unknown, &encoded.openings), Err(DecodeError::UnknownTag { tag: 26, .. })));
    assert_eq!(Record::decode(&[2], &[]), Err(DecodeError::Version(2)));
    refuses(&vec![1; MAX_CANONICAL_BYTES + 1], "an oversized record");
}

#[test]
fn a_record_of_enormous_values_is_cut_and_stays_valid() {
    let long = "ü".repeat(100_000);
    let record = Record {
        producer: long.clone(),
        source_spiffe_id: Some(long.clone()),
        destination_spiffe_id: Some(long.clone()),
        destination_service: long.clone(),
        action: long.clone(),
        path: Some(long.clone()),
        policy_ids: vec![long.as_str().into(); 100],
        policy_commit: long.clone(),
        bundle_digest: long.clone(),
        reason: long.clone(),
        source_address: Some(long.clone()),
        tls: long.clone(),
        trace_id: Some(long.clone()),
        latency_us: Some(u64::MAX),
        context: vec![(long.clone(), long.clone()); 100],
        detail: Some(long.clone()),
        shadow: Some((true, vec![long.as_str().into(); 100])),
        ..Record::default()
    };
    let encoded = record.encode(&mut Salts::fixed(0)).unwrap();
    assert!(encoded.canonical.len() <= MAX_CANONICAL_BYTES, "{}", encoded.canonical.len());
    let read = Record::decode(&encoded.canonical, &encoded.openings).unwrap();
    assert!(read.path.as_ref().unwrap().ends_with("…[cut from 200000 bytes]"));
    assert!(read.policy_ids.last().unwrap().ends_with(" more]"));
    assert_eq!(read.encode(&mut Salts::fixed(0)).unwrap(), encoded);
}

#[test]
fn limits_together_stay_within_an_entry_of_the_log() {
    let texts = 3 * limit::SPIFFE_ID
        + limit::SERVICE
        + limit::ACTION
        + limit::PATH
        + limit::POLICY_IDS
        + limit::SHADOW_IDS
        + 2 * limit::DIGEST
        + limit::REASON
        + limit::TLS
        + limit::TRACE_ID
        + limit::CONTEXT
        + limit::DETAIL;
    let fixed = 1 + 25 * 6 + 16 + 3 * 8 + 5 + 32;
    assert!(texts + fixed <= MAX_CANONICAL_BYTES, "{}", texts + fixed);
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        8 => proptest::collection::vec(any::<char>(), 0..24).prop_map(|chars| chars.into_iter().collect::<String>()),
        1 => (0usize..12_000).prop_map(|length| "ß/".repeat(length / 3)),
    ]
}

fn names() -> impl Strategy<Value = Vec<std::sync::Arc<str>>> {
    proptest::collection::vec(text().prop_map(std::sync::Arc::from), 0..6)
}

fn key() -> impl Strategy<Value = String> {
    prop_oneof![text(), Just("src_ip".to_owned()), Just("path".to_owned()), Just("jwt.sub".to_owned())]
}

prop_compose! {
    fn record()(
        (id, time_us, kind, allow, shadowed, personal_path) in
            (any::<u128>(), any::<i64>(), 0usize..4, any::<bool>(), any::<bool>(), any::<bool>()),
        (producer, destination_service, action, reason, tls) in (text(), text(), text(), text(), text()),
        (source, destination, path, address, trace_id, detail) in (
            proptest::option::of(text()), proptest::option::of(text()), proptest::option::of(text()),
            proptest::option::of(text()), proptest::option::of(text()), proptest::option::of(text()),
        ),
        (policy_ids, policy_commit, bundle_digest) in (names(), text(), text()),
        (latency_us, count) in (any::<Option<u64>>(), any::<u64>()),
        context in proptest::collection::vec((key(), text()), 0..6),
        shadow in proptest::option::of((any::<bool>(), names())),
    ) -> Record {
        Record {
            id: uuid::Uuid::from_u128(id),
            time_us,
            kind: [Kind::Decision, Kind::Event, Kind::Refusal, Kind::Gap][kind],
            producer,
            source_spiffe_id: source,
            destination_spiffe_id: destination,
            destination_service,
            action,
            path,
            personal_path,
            allow,
            enforcement: if shadowed { Enforcement::Shadow } else { Enforcement::Enforce },
            policy_ids,
            policy_commit,
            bundle_digest,
            reason,
            source_address: address,
            tls,
            trace_id,
            latency_us,
            context,
            count,
            detail,
            shadow,
            erased: vec![],
        }
    }
}

/// Whether nothing of the record has to be cut.
fn fits(record: &Record) -> bool {
    let longest = [&record.producer, &record.reason, &record.tls, &record.policy_commit, &record.bundle_digest]
        .into_iter()
        .chain(record.trace_id.iter())
        .chain(record.source_address.iter())
        .chain(record.context.iter().flat_map(|(key, value)| [key, value]))
        .map(String::len)
        .max();
    longest.unwrap_or(0) <= limit::TRACE_ID
        && [&record.source_spiffe_id, &record.destination_spiffe_id, &record.path, &record.detail]
            .into_iter()
            .flatten()
            .all(|value| value.len() <= limit::SPIFFE_ID)
        && record.destination_service.len() <= limit::SERVICE
        && record.action.len() <= limit::ACTION
        && record
            .policy_ids
            .iter()
            .chain(record.shadow.iter().flat_map(|(_, ids)| ids))
            .all(|id| id.len() <= limit::LIST_ITEM)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_encoded_is_decoded_and_encodes_again_to_the_same_bytes(record in record()) {
        let encoded = record.encode(&mut Salts::fixed(7)).unwrap();
        prop_assert!(encoded.canonical.len() <= MAX_CANONICAL_BYTES);
        let read = Record::decode(&encoded.canonical, &encoded.openings).unwrap();
        if fits(&record) {
            prop_assert_eq!(&read, &record);
        }
        prop_assert_eq!(read.encode(&mut Salts::fixed(7)).unwrap(), encoded);
    }

    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = Record::decode(&bytes, &[]);
    }

    /// Whatever a damaged encoding still decodes to, it encodes back to exactly those bytes (commitments aside).
    #[test]
    fn a_damaged_record_is_refused_or_canonical(at in 0usize..1000, byte in any::<u8>()) {
        let encoded = Record { personal_path: false, source_address: None, context: vec![], ..vector() }
            .encode(&mut Salts::fixed(1)).unwrap();
        let mut bytes = encoded.canonical;
        let at = at % bytes.len();
        bytes[at] = byte;
        if let Ok(read) = Record::decode(&bytes, &[]) {
            prop_assert_eq!(read.encode(&mut Salts::fixed(1)).unwrap().canonical, bytes);
        }
    }
}
