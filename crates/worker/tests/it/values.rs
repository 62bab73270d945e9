//! Values between CPython's functions and workflows: whole, of their types, or refused in their call.

use std::{fs, path::PathBuf};

use durable_core::model::ExecutionStatus;
use durable_worker::{
    FunctionError, Registry, WorkerSettings,
    python::{PythonHost, PythonSettings},
};
use serde_json::{Value, json};

use crate::worker::{Installation, install};

const TASKS: &str = include_str!("travelling.py");

struct Here {
    installation: Installation,
    _folder: tempfile::TempDir,
}

async fn here(tasks: &str, python: PathBuf) -> Here {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tasks.py");
    fs::write(&file, tasks).unwrap();
    let settings = PythonSettings { files: vec![file], processes: 2, python, ..PythonSettings::default() };
    let host = PythonHost::start(settings).await.unwrap_or_else(|error| panic!("{error}"));
    let mut registry = Registry::new()
        .function("rust.deep", || async {
            let deep = (0..120).fold(json!(1), |value, _| json!([value]));
            Ok::<_, FunctionError>(json!({"$py": "dict", "items": [[[1], deep]]}))
        })
        .function("rust.huge", || async {
            Err::<(), _>(FunctionError::new("ValueError", "x".repeat(1 << 20)).not_retryable())
        });
    host.offer(&mut registry);
    Here { installation: install(registry, WorkerSettings::default()), _folder: folder }
}

async fn plain() -> Here {
    here(TASKS, "python3".into()).await
}

impl Here {
    /// The output of a workflow's `main` with this body.
    async fn run(&self, body: &str) -> Result<Value, String> {
        let body = body.replace('\n', "\n    ");
        let source = format!("import asyncio\nimport uuid\nimport rust\nimport tasks\nasync def main():\n    {body}\n");
        let id = self.installation.start(&source).await;
        let ended = self.installation.end(&id).await;
        match (ended.status, ended.output, ended.error) {
            (ExecutionStatus::Completed, Some(output), _) => Ok(output.parse().unwrap()),
            (_, _, Some(failure)) => Err(failure.to_string()),
            _ => panic!("no end"),
        }
    }

    async fn eval(&self, expression: &str) -> Result<Value, String> {
        self.run(&format!("return {expression}")).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn random_values_of_cpython_go_through_a_workflow_and_come_back_as_they_were() {
    let body = "
async def one(seed):
    return await tasks.same(seed, await tasks.make(seed))

wrong = []
for begin in range(0, 600, 50):
    wrong += [text for text in await asyncio.gather(*[one(seed) for seed in range(begin, begin + 50)]) if text]
return wrong
";
    let wrong = plain().await.run(body.trim()).await.unwrap();
    let wrong = wrong.as_array().unwrap();
    let shown: Vec<&str> = wrong.iter().take(5).filter_map(Value::as_str).collect();
    assert!(wrong.is_empty(), "{} of 600: {}", wrong.len(), shown.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn types_survive_from_function_to_function_without_an_annotation() {
    let here = plain().await;
    for what in ["row", "point", "color", "pair", "plain", "order", "rows", "by", "none", "keys", "set", "id"] {
        let done = here.eval(&format!("await tasks.untyped('{what}', await tasks.give('{what}'))")).await;
        assert_eq!(done, Ok(json!(true)), "{what}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_annotation_decides_what_is_made_of_a_value() {
    let here = plain().await;
    let is = async |expression: &str, expected: Value| {
        assert_eq!(here.eval(expression).await, Ok(expected), "{expression}");
    };
    is("await tasks.takes_row(await tasks.give('row'))", json!(2)).await;
    is("await tasks.takes_row({'n': 5})", json!(10)).await;
    is("await tasks.takes_order(await tasks.give('order'))", json!([2, 2, 3, "RED", 8])).await;
    is(
        "await tasks.takes_rows([{'n': 1}], await tasks.give('row'), by={'a': {'n': 3}}, z={'n': 4})",
        json!([2, 2, 6, 8]),
    )
    .await;
    is("await tasks.takes_either(await tasks.give('row'))", json!("Row")).await;
    is("await tasks.takes_either(await tasks.give('color'))", json!("Color")).await;
    is("await tasks.takes_either(None)", json!("NoneType")).await;
    is("await tasks.takes_either('text')", json!("str")).await;
    is("await tasks.takes_level(await tasks.give('level'))", json!(true)).await;
    is("await tasks.takes_color('red')", json!(true)).await;
    let texts = "await tasks.takes_texts(str(uuid.UUID(int=7)) if False else '00000000-0000-0000-0000-000000000007', '1.10', '2024-02-29T12:00:00', '/a', ['00000000-0000-0000-0000-000000000007'])";
    is(texts, json!(["UUID", "Decimal", "datetime", "PosixPath", "set", "UUID"])).await;
    is(
        "await tasks.takes_wanted({'row': {'n': 2}, 'ids': ['00000000-0000-0000-0000-000000000007']})",
        json!([4, true]),
    )
    .await;
    // What fits nothing is passed as it came, as Python does.
    is("await tasks.takes_int('x')", json!("str")).await;
    let misfit = here.eval("await tasks.takes_rows([{'n': 1}, {'m': 2}])").await.unwrap_err();
    assert!(misfit.starts_with("TypeError: tasks.takes_rows() argument rows[1] cannot be made a Row: "), "{misfit}");
    let misfit = here.eval("await tasks.takes_rows([], by={'a': {}})").await.unwrap_err();
    assert!(misfit.contains("argument by[\"a\"] cannot be made a Row"), "{misfit}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_taken_fails_its_call_and_says_where() {
    let here = plain().await;
    for (what, text) in [
        ("socket", "the result of tasks.refused: result[\"rows\"][3][\"n\"]: a socket.socket cannot be sent"),
        ("key", "result[\"a\"][<tasks.Unlike object"),
        ("attribute", "result.n[0]: a _io.TextIOWrapper cannot be sent"),
        ("deep", "nested too deeply"),
        ("circular", "nested too deeply, or contains itself"),
        ("metre", "are one key to the interpreter"),
        ("name", "result[\"caf\\udce9\"]: character 3 of the text is a lone surrogate"),
        ("field", "character 1 of the text is a lone surrogate"),
    ] {
        let body =
            format!("try:\n    await tasks.refused('{what}')\nexcept TypeError as error:\n    return str(error)");
        let caught = here.run(&body).await.unwrap();
        assert!(caught.as_str().unwrap().contains(text), "{what}: {caught}");
    }
    let caught =
        here.run("try:\n    await rust.deep()\nexcept TypeError as error:\n    return str(error)").await.unwrap();
    assert!(
        caught.as_str().unwrap().contains("the result of rust.deep: result[[1]]: a list cannot be hashed"),
        "{caught}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn exceptions_keep_their_text_and_number_and_have_a_bound() {
    let here = plain().await;
    let caught =
        here.run("try:\n    await tasks.missing_file()\nexcept FileNotFoundError as error:\n    return str(error)");
    assert_eq!(caught.await.unwrap(), "[Errno 2] No such file or directory: '/no/such/file'");
    let told = here.eval("await tasks.told(await tasks.errors())").await.unwrap();
    assert_eq!(told[1], json!(["FileNotFoundError", 2, "[Errno 2] No such file or directory"]));
    assert_eq!((&told[2], &told[3]), (&json!(["KeyError", null, "'k'"]), &json!(["ValueError", null, ""])));
    assert_eq!(told[0], json!(["ConnectionResetError", 104, "[Errno 104] reset"]));
    for call in ["tasks.shouts(50)", "rust.huge()"] {
        let failed = here.eval(&format!("await {call}")).await.unwrap_err();
        assert!(failed.len() < 17 << 10 && failed.contains("bytes were cut here"), "{}", failed.len());
    }
}

/// Of numpy and pydantic, which functions may use and nothing here needs.
const OTHERS: &str = r#"
import typing
import numpy
import pydantic


class Item(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="allow")
    name: str = pydantic.Field(alias="itemName")
    size: typing.Optional["Item"] = None

    def shout(self):
        return self.name.upper()


class Frozen(pydantic.BaseModel, frozen=True):
    n: int


def item():
    return Item(itemName="tea", size=Item(itemName="big"), more=1)


def back(item: Item):
    return [item == globals()["item"](), item.shout(), item.size.shout(), item.more]


def unnamed(item):
    return isinstance(item, Item) and item.shout()


def given(item: Item):
    return item.shout()


def several(items: list[Item], by: "dict[str, Item | None]"):
    return [item.shout() for item in items] + [type(item).__name__ for item in by.values()]


def frozen():
    return {Frozen(n=1): "a"}


def thaw(rows: dict[Frozen, str]):
    return rows == {Frozen(n=1): "a"}


def scalars():
    return [
        numpy.int64(7), numpy.float32(0.5), numpy.bool_(True), numpy.array(3), numpy.str_("x"), {numpy.int64(1): numpy.float64(2)},
        numpy.datetime64("2024-02-29T12:00:00"),
    ]


def array(kind):
    return {"rows": [numpy.array([1, 2]) if kind == "array" else numpy.datetime64(1, "ns")]}
"#;

/// A Python with numpy and pydantic; scripts/test installs it.
fn others() -> PathBuf {
    let python = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../target/types/bin/python");
    assert!(python.exists(), "{} is not there: scripts/test installs it", python.display());
    python
}

#[tokio::test(flavor = "multi_thread")]
async fn pydantic_models_are_models_again_and_numpy_scalars_are_numbers() {
    let here = here(OTHERS, others()).await;
    assert_eq!(here.eval("await tasks.back(await tasks.item())").await, Ok(json!([true, "TEA", "BIG", 1])));
    assert_eq!(here.eval("await tasks.unnamed(await tasks.item())").await, Ok(json!("TEA")));
    assert_eq!(here.eval("await tasks.given({'itemName': 'x'})").await, Ok(json!("X")));
    let several = "await tasks.several([{'itemName': 'a'}, await tasks.item()], {'b': None, 'c': {'itemName': 'c'}})";
    assert_eq!(here.eval(several).await, Ok(json!(["A", "TEA", "NoneType", "Item"])));
    assert_eq!(here.eval("await tasks.thaw(await tasks.frozen())").await, Ok(json!(true)));
    let misfit = here.eval("await tasks.given({'itemNam': 'x'})").await.unwrap_err();
    assert!(misfit.starts_with("TypeError: tasks.given() argument item cannot be made a Item: "), "{misfit}");
    let expected = json!([
        7, 0.5, true, 3, "x", {"$py": "dict", "items": [[1, 2.0]]}, {"$py": "datetime", "value": "2024-02-29T12:00:00"}
    ]);
    assert_eq!(here.eval("await tasks.scalars()").await, Ok(expected));
    let refused = here.eval("await tasks.array('array')").await.unwrap_err();
    assert!(
        refused
            .contains("result[\"rows\"][0]: a numpy.ndarray cannot be sent: return plain data, for example .tolist()"),
        "{refused}"
    );
    let refused = here.eval("await tasks.array('ns')").await.unwrap_err();
    assert!(refused.contains("result[\"rows\"][0]: a numpy.datetime64 cannot be sent"), "{refused}");
}
