//! What a JSON schema of our document allows: values that fit, values that do not, and whether an answer fits.

use serde_json::{Map, Value, json};

/// The document that says it.
pub struct Document(pub Value);

impl Document {
    /// The schema that a reference leads to.
    pub fn resolve<'d>(&'d self, schema: &'d Value) -> &'d Value {
        match schema["$ref"].as_str() {
            Some(reference) => self.0.pointer(&reference[1..]).unwrap_or_else(|| panic!("{reference} leads nowhere")),
            None => schema,
        }
    }

    fn types<'d>(&self, schema: &'d Value) -> Vec<&'d str> {
        match &schema["type"] {
            Value::String(one) => vec![one],
            Value::Array(several) => several.iter().filter_map(Value::as_str).collect(),
            _ => Vec::new(),
        }
    }

    /// A good value for the key `name`. Names are those of the director under test.
    pub fn good(&self, name: &str, schema: &Value) -> Value {
        let schema = self.resolve(schema);
        match name {
            "name" => return json!("t7"),
            "address" => return json!("10.0.1.24"),
            "pool" if self.types(schema).contains(&"string") => return json!("boot"),
            "service" => return json!("tftp"),
            "idle" => return json!("60s"),
            "tid_range" => return json!("25000-25999"),
            "table_size" => return json!(65_537),
            "weight" => return json!(7),
            "drain" | "paused" => return json!(false),
            "protocol" => return json!("udp"),
            _ => {}
        }
        let kinds = self.types(schema);
        if kinds.contains(&"array") {
            return json!([self.good("", &schema["items"])]);
        }
        if kinds.contains(&"object") {
            let properties = schema["properties"].as_object().cloned().unwrap_or_default();
            return Value::Object(properties.iter().map(|(key, schema)| (key.clone(), self.good(key, schema))).collect());
        }
        json!(53)
    }

    /// Values that the schema refuses, each for a reason of its own.
    pub fn bad(&self, schema: &Value) -> Vec<Value> {
        let schema = self.resolve(schema);
        if schema["enum"].is_array() || !schema["const"].is_null() {
            return vec![json!("nonsense"), json!(""), json!(7), json!(true), json!([]), json!({"a": 1}), json!("tftp\u{0}")];
        }
        if let Some(variants) = schema["oneOf"].as_array() {
            let mut bad = vec![json!("nonsense"), json!(7), json!(true), json!([]), json!({}), json!({"protocol": "sctp", "ports": [1]})];
            bad.extend(variants.iter().flat_map(|variant| self.bad(variant)).filter(|value| value.is_object()));
            return bad;
        }
        let kinds = self.types(schema);
        let mut bad: Vec<Value> = [
            ("integer", vec![json!(0), json!(-1)]),
            ("boolean", vec![json!(true)]),
            ("string", vec![json!("x")]),
            ("array", vec![json!([]), json!([1])]),
            ("object", vec![json!({}), json!({"a": {"b": 1}})]),
            ("number", vec![json!(1.5), json!(1e300), json!(-0.0)]),
        ]
        .into_iter()
        .filter(|(kind, _)| !kinds.contains(kind))
        .flat_map(|(_, values)| values)
        .collect();
        if kinds.contains(&"integer") {
            let beyond = |key: &str, step: i64| schema[key].as_i64().map(|limit| json!(limit + step));
            bad.extend(beyond("minimum", -1).into_iter().chain(beyond("maximum", 1)));
            bad.extend([json!(1.5), json!(1e300), json!(u64::MAX), json!(i64::MIN), json!(i64::MAX)]);
        }
        if kinds.contains(&"string") {
            bad.extend(["", " ", "\u{0}", "a b", "ü", "\u{202e}x", "☃/../..", "'; DROP TABLE pools", "%s%n"].map(Value::from));
            bad.push(json!("a".repeat(5000)));
        }
        if kinds.contains(&"array") {
            if schema["minItems"] == 1 {
                bad.push(json!([]));
            }
            bad.extend(self.bad(&schema["items"]).into_iter().map(|item| json!([item])));
            let good = self.good("", &schema["items"]);
            bad.push(json!([good, good, null, good]));
        }
        if kinds.contains(&"object") {
            bad.extend(self.bad_objects(schema));
        }
        bad
    }

    /// Objects with one thing wrong.
    fn bad_objects(&self, schema: &Value) -> Vec<Value> {
        let good: Map<String, Value> = self.good("", schema).as_object().cloned().unwrap_or_default();
        let mut bad = Vec::new();
        for key in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            let mut without = good.clone();
            without.remove(key);
            bad.push(Value::Object(without.clone()));
            without.insert(key.to_owned(), Value::Null);
            bad.push(Value::Object(without));
        }
        for extra in ["nonsense", "", "a.b", "ü\u{0}", "$ref", "__proto__"] {
            let mut with = good.clone();
            with.insert(extra.to_owned(), json!(1));
            bad.push(Value::Object(with));
        }
        for (key, schema) in schema["properties"].as_object().into_iter().flatten() {
            for value in self.bad(schema) {
                let mut with = good.clone();
                with.insert(key.clone(), value);
                bad.push(Value::Object(with));
            }
        }
        bad
    }

    /// Says where `value` is not what the schema says.
    pub fn schema_error(&self, at: &str, value: &Value, schema: &Value) -> Option<String> {
        let schema = self.resolve(schema);
        if let Some(error) = schema["allOf"].as_array().into_iter().flatten().find_map(|part| self.schema_error(at, value, part)) {
            return Some(error);
        }
        if let Some(variants) = schema["oneOf"].as_array() {
            let errors: Option<Vec<String>> = variants.iter().map(|variant| self.schema_error(at, value, variant)).collect();
            return errors.map(|errors| format!("{at} fits no variant: {}", errors.join("; ")));
        }
        let kinds = self.types(schema);
        let kind = match value {
            Value::Null => "null",
            Value::Bool(_) => "boolean",
            Value::Number(number) if number.is_f64() => "number",
            Value::Number(_) => "integer",
            Value::String(_) => "string",
            Value::Array(_) => "array",
            Value::Object(_) => "object",
        };
        let fits = kinds.is_empty() || kinds.contains(&kind) || (kind == "integer" && kinds.contains(&"number"));
        if !fits {
            return Some(format!("{at} is {value}; {kinds:?} is expected"));
        }
        if schema["enum"].as_array().is_some_and(|allowed| !allowed.contains(value)) {
            return Some(format!("{at} is {value}; allowed: {}", schema["enum"]));
        }
        let missing = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str);
        if let Some(missing) = missing.filter(|_| value.is_object()).find(|key| value.get(key).is_none()) {
            return Some(format!("{at} has no {missing}"));
        }
        let inside =
            schema["properties"].as_object().into_iter().flatten().filter_map(|(key, schema)| Some((key, value.get(key)?, schema)));
        let inside = inside.filter_map(|(key, value, schema)| self.schema_error(&format!("{at}.{key}"), value, schema)).next();
        let items = value.as_array().into_iter().flatten().enumerate();
        inside.or_else(|| {
            let items = items.filter(|_| schema["items"].is_object());
            items.filter_map(|(n, item)| self.schema_error(&format!("{at}[{n}]"), item, &schema["items"])).next()
        })
    }
}
