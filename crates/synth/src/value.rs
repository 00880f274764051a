//! From values of the engine to JSON. Only plain data passes: own, enumerable properties, each read once, so neither a
//! polluted prototype nor a `toJSON` changes what is read, and no proxies.

use crate::limits::{TEXT_BYTES_MAX, TEXTS_BYTES_MAX, VALUE_DEPTH_MAX, VALUES_MAX};
use rquickjs::{Ctx, Error, Object, Type, Value};
use serde::Serialize;

/// Why something is no data.
#[derive(Debug)]
pub(crate) enum NotData {
    /// Reading it ran code that failed.
    Js(Error),
    /// It is of a kind that a definition has not.
    Is { message: String, hint: &'static str },
    /// A property is written as the canonical model writes it.
    Snake(String),
}

impl From<Error> for NotData {
    fn from(error: Error) -> NotData {
        NotData::Js(error)
    }
}

/// Properties whose own properties are named by users.
const USERS_NAMES: [&str; 2] = ["environment", "secrets"];
/// The largest whole number that is exact.
const WHOLE_MAX: f64 = 9_007_199_254_740_991.0;

/// Reads values as JSON, and counts what it reads.
pub(crate) struct Reader<'js> {
    values: usize,
    texts: usize,
    /// Kinds of objects whose content is not in their properties.
    opaque: Vec<(&'static str, Object<'js>)>,
    /// What objects that are written as `{ ... }` are made from: none of those.
    plain: Option<Object<'js>>,
    /// Names of TypeScript that lead to where it reads.
    pub(crate) path: Vec<String>,
    json: Vec<u8>,
}

impl<'js> Reader<'js> {
    pub(crate) fn new(ctx: &Ctx<'js>) -> Result<Reader<'js>, Error> {
        let mut opaque = Vec::new();
        for name in ["Map", "Set", "WeakMap", "WeakSet", "RegExp", "ArrayBuffer", "Promise", "Error"] {
            opaque.push((name, ctx.globals().get(name)?));
        }
        let plain = Object::new(ctx.clone())?.get_prototype();
        Ok(Reader { values: 0, texts: 0, opaque, plain, path: Vec::new(), json: Vec::new() })
    }

    /// Reads a value; [`Reader::json`] is it then. When it fails, `path` is where.
    pub(crate) fn read(&mut self, value: &Value<'js>) -> Result<(), NotData> {
        self.path.clear();
        self.json.clear();
        if !self.any(value)? {
            self.json.extend(b"null");
        }
        Ok(())
    }

    /// What was read last, as JSON without a line's end.
    pub(crate) fn json(&self) -> &[u8] {
        &self.json
    }

    /// Writes a value; says whether there was one.
    fn any(&mut self, value: &Value<'js>) -> Result<bool, NotData> {
        self.values += 1;
        if self.values > VALUES_MAX {
            return is(
                format!("there are more than {VALUES_MAX} values"),
                "say less, or use several folders",
            );
        }
        if self.path.len() > VALUE_DEPTH_MAX {
            let message = format!("it is nested more than {VALUE_DEPTH_MAX} deep, or contains itself");
            return is(message, "a definition is a tree of plain values");
        }
        let plain = "write a text, a number, true or false, a list, or an object";
        match value.type_of() {
            Type::Undefined | Type::Uninitialized => return Ok(false),
            Type::Null => self.json.extend(b"null"),
            Type::Bool => self.write(&value.as_bool().unwrap_or_default()),
            Type::Int => self.write(&value.as_int().unwrap_or_default()),
            Type::Float => self.number(value.as_float().unwrap_or(f64::NAN))?,
            Type::String => self.text(value)?,
            Type::Function | Type::Constructor => {
                return is("it is a function, not a value".to_owned(), "call it, or write its value");
            }
            Type::Symbol => return is("it is a symbol".to_owned(), plain),
            Type::BigInt => return is("it is a bigint".to_owned(), "write a number, without the n"),
            // Who asks a proxy twice may get two answers.
            Type::Proxy => return is("it is a proxy".to_owned(), "write the value itself"),
            Type::Promise => return is("it is a promise".to_owned(), "write await before it"),
            _ => {
                let Some(object) = value.as_object() else {
                    return is(format!("it is of the type {}", value.type_name()), plain);
                };
                if value.is_array() { self.list(object)? } else { self.object(object)? }
            }
        }
        Ok(true)
    }

    fn write<T: Serialize + ?Sized>(&mut self, value: &T) {
        serde_json::to_writer(&mut self.json, value).expect("a vector takes all, and these are plain values");
    }

    fn number(&mut self, number: f64) -> Result<(), NotData> {
        if number.fract() == 0.0 && number.abs() <= WHOLE_MAX {
            #[expect(clippy::cast_possible_truncation, reason = "whole and within 53 bits: exact")]
            self.write(&(number as i64));
        } else if number.is_finite() {
            self.write(&number);
        } else {
            return is(format!("it is {number}, which is no number of anything"), "see how it is computed");
        }
        Ok(())
    }

    fn text(&mut self, value: &Value<'js>) -> Result<(), NotData> {
        let half = |_| NotData::Is {
            message: "it is a text with half a character".to_owned(),
            hint: "surrogates come in pairs",
        };
        let text =
            value.as_string().map(rquickjs::String::to_string).transpose().map_err(half)?.unwrap_or_default();
        self.texts += text.len();
        if text.len() > TEXT_BYTES_MAX {
            return is(format!("it is a text of {} bytes", text.len()), "a text has at most 1 MiB");
        }
        if self.texts > TEXTS_BYTES_MAX {
            return is(
                "all texts together have more than 32 MiB".to_owned(),
                "say less, or use several folders",
            );
        }
        self.write(&text);
        Ok(())
    }

    fn list(&mut self, object: &Object<'js>) -> Result<(), NotData> {
        let length: f64 = object.get::<_, Value<'js>>("length")?.as_number().unwrap_or_default();
        #[expect(clippy::cast_precision_loss, reason = "far below 53 bits")]
        if length > VALUES_MAX as f64 {
            return is(format!("it is a list of {length} values"), "say less");
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "checked; a negative one is 0"
        )]
        let length = length as u32;
        self.json.push(b'[');
        for n in 0..length {
            let value: Value<'js> = object.get(n)?;
            if n > 0 {
                self.json.push(b',');
            }
            self.path.push(n.to_string());
            if !self.any(&value)? {
                return is("there is nothing at this place of the list".to_owned(), "leave no gap in a list");
            }
            self.path.pop();
        }
        self.json.push(b']');
        Ok(())
    }

    fn object(&mut self, object: &Object<'js>) -> Result<(), NotData> {
        if object.get_prototype() != self.plain
            && let Some((name, _)) = self.opaque.iter().find(|(_, class)| object.is_instance_of(class))
        {
            return is(format!("it is a {name}, not plain data"), "write a list or an object");
        }
        let named_by_users = self.path.last().is_some_and(|last| USERS_NAMES.contains(&last.as_str()));
        self.json.push(b'{');
        let first = self.json.len();
        for key in object.keys::<String>() {
            let key = key?;
            let value: Value<'js> = object.get(key.as_str())?;
            self.texts += key.len();
            let before = self.json.len();
            if before > first {
                self.json.push(b',');
            }
            if named_by_users {
                self.write(&key)
            } else {
                self.write(&snake(&key))
            };
            self.json.push(b':');
            let misnamed = !named_by_users && key.contains('_');
            self.path.push(key.chars().take(100).collect());
            if !self.any(&value)? {
                self.json.truncate(before);
            }
            if misnamed {
                return Err(NotData::Snake(key));
            }
            self.path.pop();
        }
        self.json.push(b'}');
        Ok(())
    }
}

fn is<T>(message: String, hint: &'static str) -> Result<T, NotData> {
    Err(NotData::Is { message, hint })
}

/// `boxesPerAz` as `boxes_per_az`.
fn snake(name: &str) -> String {
    let mut snake = String::with_capacity(name.len() + 4);
    for c in name.chars() {
        if c.is_ascii_uppercase() {
            snake.push('_');
        }
        snake.push(c.to_ascii_lowercase());
    }
    snake
}

#[cfg(test)]
mod tests {
    use super::snake;
    use crate::locate::camel;

    #[test]
    fn names_go_there_and_back() {
        for (ts, model) in [("boxesPerAz", "boxes_per_az"), ("name", "name"), ("lockFiles", "lock_files")] {
            assert_eq!((snake(ts).as_str(), camel(model).as_str()), (model, ts));
        }
        assert_eq!(camel("fault-rate"), "fault-rate");
    }
}
