//! The words of the mesh schema: entity types, actions, enumerated ids, and the attributes that policies can read.

use std::collections::{BTreeMap, BTreeSet};

use cedar_policy::SchemaFragment;
use serde_json::{Map, Value};

/// An attribute.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Member {
    /// Its type, as the schema writes it.
    pub(super) kind: String,
    pub(super) is_optional: bool,
    /// The contexts or entity types that have it.
    pub(super) of: BTreeSet<String>,
}

pub(super) struct Vocabulary {
    /// Entity types, without `Mesh::`.
    pub(super) types: Vec<String>,
    pub(super) actions: Vec<String>,
    /// Ids of enumerated entity types.
    pub(super) enumerated: BTreeMap<String, Vec<String>>,
    /// Attributes by the path that has them: `principal`, `resource`, `context`, `context.net`.
    pub(super) members: BTreeMap<String, BTreeMap<String, Member>>,
}

impl Vocabulary {
    pub(super) fn new() -> Result<Self, String> {
        let (fragment, _) =
            SchemaFragment::from_cedarschema_str(signet_policy::schema_text()).map_err(|error| error.to_string())?;
        let json = fragment.to_json_value().map_err(|error| error.to_string())?;
        let mesh = json.get("Mesh").ok_or("the schema has no namespace `Mesh`")?;
        let part = |name: &str| mesh.get(name).and_then(Value::as_object).ok_or(format!("the schema has no {name}"));
        let (entities, actions) = (part("entityTypes")?, part("actions")?);
        let reader = Reader { common: part("commonTypes")? };
        let mut vocabulary = Self {
            types: entities.keys().cloned().collect(),
            actions: actions.keys().cloned().collect(),
            enumerated: BTreeMap::new(),
            members: BTreeMap::new(),
        };
        for (name, entity) in entities {
            if let Some(ids) = entity.get("enum").and_then(Value::as_array) {
                let ids = ids.iter().filter_map(Value::as_str).map(str::to_owned).collect();
                vocabulary.enumerated.insert(name.clone(), ids);
            }
        }
        for action in actions.values() {
            let Some(applies) = action.get("appliesTo") else { continue };
            for (root, list) in [("principal", "principalTypes"), ("resource", "resourceTypes")] {
                for kind in applies.get(list).and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str)
                {
                    let kind = kind.strip_prefix("Mesh::").unwrap_or(kind);
                    if let Some(shape) = entities.get(kind).and_then(|entity| entity.get("shape")) {
                        reader.add(root, kind, shape, &mut vocabulary.members);
                    }
                }
            }
            if let Some(context) = applies.get("context") {
                reader.add("context", &reader.name(context), context, &mut vocabulary.members);
            }
        }
        Ok(vocabulary)
    }

    /// The attribute that a path such as `context.net.src_ip` names.
    pub(super) fn member(&self, path: &str) -> Option<&Member> {
        let (of, name) = path.rsplit_once('.')?;
        self.members.get(of)?.get(name)
    }
}

struct Reader<'s> {
    common: &'s Map<String, Value>,
}

impl Reader<'_> {
    /// Adds the attributes of `shape`, which `of` has, below `path`, and those of records within.
    fn add(&self, path: &str, of: &str, shape: &Value, into: &mut BTreeMap<String, BTreeMap<String, Member>>) {
        for (name, attribute) in self.attributes(shape).into_iter().flatten() {
            let member = into.entry(path.to_owned()).or_default().entry(name.clone()).or_default();
            member.kind = self.name(attribute);
            member.is_optional = attribute.get("required") == Some(&Value::Bool(false));
            member.of.insert(of.to_owned());
            self.add(&format!("{path}.{name}"), of, attribute, into);
        }
    }

    fn attributes<'v>(&'v self, shape: &'v Value) -> Option<&'v Map<String, Value>> {
        match shape.get("type")?.as_str()? {
            "Record" => shape.get("attributes")?.as_object(),
            kind => {
                let name = shape.get("name").and_then(Value::as_str).unwrap_or(kind);
                self.attributes(self.common.get(name.strip_prefix("Mesh::").unwrap_or(name))?)
            }
        }
    }

    fn name(&self, shape: &Value) -> String {
        let text = |name: &str| shape.get(name).and_then(Value::as_str);
        match text("type") {
            Some("Set") => format!("Set<{}>", shape.get("element").map(|e| self.name(e)).unwrap_or_default()),
            kind => text("name").or(kind).unwrap_or_default().replace("__cedar::", ""),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn attributes_are_known_by_path_with_type_and_owner() {
        let words = Vocabulary::new().unwrap();
        let table = [
            ("context.net.src_ip", "ipaddr", false),
            ("context.path", "String", false),
            ("context.sni", "String", true),
            ("context.jwt.groups", "Set<String>", false),
            ("principal.env", "Env", false),
            ("resource.data_class", "DataClass", false),
        ];
        for (path, kind, is_optional) in table {
            let member = words.member(path).unwrap_or_else(|| panic!("{path}: {:?}", words.members));
            assert_eq!((member.kind.as_str(), member.is_optional), (kind, is_optional), "{path}");
        }
        assert_eq!(words.member("context.sni").unwrap().of, BTreeSet::from(["TcpCtx".to_owned()]));
        assert!(words.actions.contains(&"http:GET".to_owned()) && words.types.contains(&"Team".to_owned()));
        assert_eq!(words.enumerated.get("Env").map(Vec::len), Some(3));
    }
}
