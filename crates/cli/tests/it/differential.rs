//! Random workflows of nested gathers give what CPython gives for the same file.

use proptest::{
    prelude::*,
    test_runner::{Config, TestRunner},
};

use crate::Shell;

/// Functions that both sides can await. Under CPython the workflow imports them directly; for
/// durable they are the functions of `tasks.py`.
const TASKS: &str = "
import asyncio

async def echo(x):
    await asyncio.sleep(0)
    return x

async def double(x):
    await asyncio.sleep(0.001)
    return x * 2 if isinstance(x, int) else [x, x]

async def refuse(x):
    raise ValueError(f'refused {x}')
";

#[derive(Debug, Clone)]
enum Flow {
    Call(&'static str, i32),
    Then(Box<Flow>),
    Gather(Vec<Flow>),
    Caught(i32),
    Sleep(i32),
}

fn flow() -> impl Strategy<Value = Flow> {
    let leaf = prop_oneof![
        (prop::sample::select(vec!["echo", "double"]), 0..100).prop_map(|(name, n)| Flow::Call(name, n)),
        (0..100).prop_map(Flow::Caught),
        (0..100).prop_map(Flow::Sleep),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            inner.clone().prop_map(|flow| Flow::Then(Box::new(flow))),
            prop::collection::vec(inner, 0..4).prop_map(Flow::Gather),
        ]
    })
}

/// Writes a coroutine for each node and answers the expression that awaits it.
fn write(flow: &Flow, source: &mut String, next: &mut usize) -> String {
    let body = match flow {
        Flow::Call(name, n) => format!("    return await {name}({n})\n"),
        Flow::Then(first) => {
            let first = write(first, source, next);
            format!("    first = await {first}\n    return await double(first)\n")
        }
        Flow::Gather(parts) => {
            let parts: Vec<String> = parts.iter().map(|part| write(part, source, next)).collect();
            format!("    parts = await asyncio.gather({})\n    return ['gathered', *parts]\n", parts.join(", "))
        }
        Flow::Caught(n) => format!(
            "    try:\n        return await refuse({n})\n    except ValueError as error:\n        return str(error)\n"
        ),
        Flow::Sleep(n) => format!("    return await asyncio.sleep(0.00{n:02}, 'slept {n}')\n"),
    };
    *next += 1;
    source.push_str(&format!("async def part{next}():\n{body}\n"));
    format!("part{next}()")
}

#[test]
fn random_workflows_give_the_same_as_cpython() {
    let shell = Shell::new();
    shell.write("tasks.py", TASKS);
    let mut runner = TestRunner::new(Config { cases: 25, failure_persistence: None, ..Config::default() });
    runner
        .run(&flow(), |flow| {
            let mut source = String::from("import asyncio\nimport json\nfrom tasks import double, echo, refuse\n\n");
            let whole = write(&flow, &mut source, &mut 0);
            source.push_str(&format!(
                "async def main():\n    return await {whole}\n\nif __name__ == '__main__':\n    print(json.dumps(asyncio.run(main()), separators=(',', ':')))\n"
            ));
            shell.write("flow.py", &source);
            let cpython =
                std::process::Command::new("python3").arg("flow.py").current_dir(shell.path()).output().unwrap();
            let expected = String::from_utf8(cpython.stdout).unwrap();
            let said = shell.durable(&["run", "flow.py"]);
            prop_assert_eq!(said.code, Some(0), "{}\n{}", source, said.err);
            prop_assert_eq!(said.out, expected, "{}", source);
            Ok(())
        })
        .unwrap();
}
