//! `signet policy fmt` and `schema`.

use crate::place::Place;

const FILE: &str = "policies/ledger.cedar";

#[test]
fn formatting_changes_what_is_out_of_form_once_and_no_meaning() {
    let place = Place::new();
    place.policy(&["fmt"]).expect(0);
    place.commit("Format");
    place.policy(&["fmt", "--check"]).expect(0);
    place.edit(FILE, "permit (", "permit    (");
    assert_eq!(place.policy(&["fmt", "--check"]).expect(1).stdout, format!("{FILE}\n"));
    assert!(std::fs::read_to_string(place.path(FILE)).unwrap().contains("permit    ("));
    assert_eq!(place.policy(&["fmt"]).expect(0).stdout, format!("{FILE}\n"));
    assert_eq!(place.git(&["status", "--porcelain"]), "");
    place.policy(&["test"]).expect(0);
    // With one file that is not Cedar nothing is written.
    place.edit(FILE, "permit (", "permit    (");
    place.append("policies/z.cedar", "permit(");
    let ran = place.policy(&["fmt"]).expect(1);
    assert!(ran.stderr.contains("policies/z.cedar"), "{}", ran.stderr);
    assert!(std::fs::read_to_string(place.path(FILE)).unwrap().contains("permit    ("));
}

#[test]
fn the_schema_is_written_whole() {
    let schema = Place::new().policy(&["schema"]).expect(0).stdout;
    assert!(schema.contains("namespace Mesh") && schema.contains("http:GET"), "{schema}");
}
