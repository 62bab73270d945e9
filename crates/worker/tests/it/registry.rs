//! Typed Rust functions.

use std::collections::BTreeMap;

use durable_worker::{FunctionError, FunctionOptions, Kwargs, Registry, Rest};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::worker::call;

type Done<T> = Result<T, FunctionError>;

#[derive(Deserialize)]
struct Size {
    width: u32,
    #[serde(default)]
    height: Option<u32>,
}

fn registry() -> Registry {
    Registry::new()
        .function("add", |a: i64, b: i64| async move { Done::Ok(a + b) })
        .function("nothing", || async move { Done::Ok(()) })
        .function("greet", |name: String, greeting: Option<String>| async move {
            Done::Ok(format!("{} {name}", greeting.unwrap_or_else(|| "hello".into())))
        })
        .function("sum", |first: i64, rest: Rest<i64>| async move { Done::Ok(first + rest.0.iter().sum::<i64>()) })
        .function("resize", |name: String, Kwargs(size): Kwargs<Size>| async move {
            Done::Ok(json!([name, size.width, size.height]))
        })
        .function("labels", |Kwargs(all): Kwargs<BTreeMap<String, Value>>| async move { Done::Ok(all) })
        .function_with(
            "scale",
            &["image", "factor"],
            FunctionOptions::default(),
            |image: String, factor: f64| async move { Done::Ok(format!("{image}*{factor}")) },
        )
        .function("panics", |message: String| async move {
            if !message.is_empty() {
                panic!("{message}");
            }
            Done::Ok(())
        })
        .function("reads", |path: String| async move {
            let text = std::fs::read_to_string(path)?;
            Done::Ok(text)
        })
        .function("value", |any: Value| async move { Done::Ok(any) })
}

async fn ok(function: &str, args: Value, kwargs: Value) -> Value {
    call(&registry(), function, args, kwargs).await.unwrap_or_else(|failure| panic!("{failure}"))
}

async fn err(function: &str, args: Value, kwargs: Value) -> String {
    call(&registry(), function, args, kwargs).await.expect_err("a failure").to_string()
}

#[tokio::test]
async fn parameters_are_read_by_position_by_name_and_left_out() {
    assert_eq!(ok("add", json!([2, 3]), json!({})).await, 5);
    assert_eq!(ok("nothing", json!([]), json!({})).await, Value::Null);
    assert_eq!(ok("greet", json!(["you"]), json!({})).await, "hello you");
    assert_eq!(ok("greet", json!(["you", "bye"]), json!({})).await, "bye you");
    assert_eq!(ok("sum", json!([1, 2, 3, 4]), json!({})).await, 10);
    assert_eq!(ok("sum", json!([1]), json!({})).await, 1);
    assert_eq!(ok("resize", json!(["a"]), json!({"width": 4})).await, json!(["a", 4, null]));
    assert_eq!(ok("labels", json!([]), json!({"x": 1, "y": [2]})).await, json!({"x": 1, "y": [2]}));
    assert_eq!(ok("scale", json!(["i"]), json!({"factor": 2.5})).await, "i*2.5");
    assert_eq!(ok("scale", json!([]), json!({"factor": 2, "image": "i"})).await, "i*2");
    let tagged = json!({"$py": "bytes", "base64": "AA=="});
    assert_eq!(ok("value", json!([tagged]), json!({})).await, tagged);
}

#[tokio::test]
async fn arguments_that_do_not_fit_are_type_errors_that_say_why() {
    for (function, args, kwargs, part) in [
        ("add", json!([1]), json!({}), "missing required argument: 2"),
        ("add", json!([1, 2, 3]), json!({}), "takes 2 positional arguments but 3 were given"),
        ("add", json!([1, "x"]), json!({}), "argument 2: invalid type: string"),
        ("add", json!([1, 2]), json!({"c": 3}), "unexpected keyword argument 'c'"),
        ("scale", json!(["i", 1]), json!({"image": "j"}), "multiple values for argument 'image'"),
        ("resize", json!(["a"]), json!({}), "missing field `width`"),
        ("sum", json!([1, "two"]), json!({}), "argument 2"),
    ] {
        let said = err(function, args, kwargs).await;
        assert!(said.starts_with(&format!("TypeError: {function}()")) && said.contains(part), "{said}");
    }
}

#[tokio::test]
async fn a_panic_is_caught_and_told() {
    assert_eq!(err("panics", json!(["went wrong"]), json!({})).await, "RuntimeError: panics panicked: went wrong");
    assert_eq!(ok("panics", json!([""]), json!({})).await, Value::Null);
}

#[tokio::test]
async fn any_rust_error_arrives_with_its_text() {
    let said = err("reads", json!(["/nowhere"]), json!({})).await;
    assert_eq!(said, "RuntimeError: No such file or directory (os error 2)");
}

#[tokio::test]
async fn an_unknown_function_is_answered_with_near_names() {
    let said = err("tasks.grett", json!([]), json!({})).await;
    assert_eq!(said, "durable.UnknownFunction: no worker offers tasks.grett: did you mean greet?");
}

#[test]
fn a_name_is_registered_once() {
    let twice = registry().function("add", |a: i64| async move { Done::Ok(a) });
    assert_eq!(
        twice.check().unwrap_err().to_string(),
        "the function add is registered twice: give one of them another name"
    );
    assert!(registry().check().is_ok());
}
