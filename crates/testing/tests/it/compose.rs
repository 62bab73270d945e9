//! The compose file: valid, and naming only what exists.

use std::{collections::BTreeSet, path::PathBuf, process::Command};

use durable_testing::program;
use serde_json::Value;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// The file as Compose reads it, defaults filled in, as JSON.
fn compose() -> Value {
    let output = Command::new("docker-compose").args(["config"]).current_dir(root()).output();
    let output = output.expect("docker-compose is needed: ./scripts/test installs it");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let to_json = "import json, sys, yaml; print(json.dumps(yaml.safe_load(sys.stdin), default=str))";
    // The one that the packaged docker-compose brings its YAML reader for.
    let mut python = Command::new("/usr/bin/python3")
        .args(["-c", to_json])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    std::io::Write::write_all(&mut python.stdin.take().unwrap(), &output.stdout).unwrap();
    serde_json::from_slice(&python.wait_with_output().unwrap().stdout).unwrap()
}

fn help(name: &str) -> String {
    let output = Command::new(program(name)).arg("--help").output().unwrap();
    assert!(output.status.success(), "{name} --help");
    String::from_utf8(output.stdout).unwrap()
}

fn texts(value: &Value) -> Vec<&str> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

#[test]
fn compose_names_only_programs_flags_and_variables_that_exist() {
    let compose = compose();
    let services = compose["services"].as_object().unwrap();
    let names: BTreeSet<&str> = services.keys().map(String::as_str).collect();
    assert_eq!(names, BTreeSet::from(["migrate", "orchestrator", "postgres", "redis", "worker"]));
    let dockerfile = std::fs::read_to_string(root().join("Dockerfile")).unwrap();
    // All programs share the servers' variables, and each reads those that concern it.
    let all_help: String = ["durable-worker", "durable-orchestrator", "durable-start"].map(help).concat();
    for name in ["migrate", "orchestrator", "worker"] {
        let service = &services[name];
        let command = texts(&service["command"]);
        let said = help(command[0]);
        assert!(dockerfile.contains(&format!("target/release/{}", command[0])), "{} is not in the image", command[0]);
        for word in command.iter().skip(1).filter(|word| word.starts_with("--")) {
            assert!(said.contains(&format!("{word} ")), "{name}: {} has no option {word}", command[0]);
        }
        for variable in service["environment"].as_object().unwrap().keys() {
            // PGPASSWORD is read by the Postgres client.
            let read = variable == "PGPASSWORD" || all_help.contains(&format!("[env: {variable}"));
            assert!(read, "{name}: nobody reads {variable}");
        }
        assert_eq!(service["image"], "durable-monty");
    }
    assert!(services["worker"].get("ports").is_none() && services["worker"].get("container_name").is_none(), "--scale");
    for name in ["postgres", "redis", "orchestrator"] {
        assert!(services[name]["healthcheck"]["test"].is_array(), "{name} has no healthcheck");
    }
    for volume in services.values().flat_map(|service| texts(&service["volumes"])) {
        let (source, _) = volume.split_once(':').unwrap();
        let named = compose["volumes"].get(source).is_some();
        assert!(named || PathBuf::from(source).is_dir(), "{volume}: there is no {source}");
    }
}

/// What is written there as a default is known to everybody.
#[test]
fn nobody_beyond_this_machine_reaches_what_has_a_default_password() {
    let compose = compose();
    assert_eq!(compose["networks"]["servers"]["internal"], true);
    for (name, service) in compose["services"].as_object().unwrap() {
        for port in service["ports"].as_array().into_iter().flatten() {
            let text = port.as_str().map_or_else(|| port["host_ip"].to_string(), str::to_owned);
            assert!(text.trim_matches('"').starts_with("127.0.0.1"), "{name} is published as {port}");
        }
        if ["postgres", "redis", "migrate"].contains(&name.as_str()) {
            assert!(service.get("ports").is_none(), "{name} has a port");
            let networks = service["networks"].as_object().unwrap();
            assert!(networks.keys().eq(["servers"]), "{name}: {networks:?}");
        }
    }
    let text = std::fs::read_to_string(root().join("docker-compose.yml")).unwrap();
    assert!(text.contains("requirepass"), "Redis has no password");
    assert!(compose["services"]["worker"]["environment"]["DURABLE_REDIS_URL"].as_str().unwrap().contains("redis://:"));
}

#[test]
fn services_are_confined() {
    for (name, service) in compose()["services"].as_object().unwrap() {
        assert_eq!(service["read_only"], true, "{name}");
        assert_eq!(texts(&service["cap_drop"]), ["ALL"], "{name}");
        assert_eq!(texts(&service["security_opt"]), ["no-new-privileges:true"], "{name}");
        assert!(service.get("mem_limit").is_some() && service.get("pids_limit").is_some(), "{name}: no limits");
        assert!(service.get("privileged").is_none(), "{name}");
    }
}

/// The server that the file starts asks for its password.
#[test]
fn the_command_for_redis_sets_its_password() {
    let compose = compose();
    let command = texts(&compose["services"]["redis"]["command"]);
    assert_eq!(command[..2], ["sh", "-c"]);
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("redis.sock");
    // As it is, but for where it is.
    let here = format!("--port 0 --unixsocket {} --dir {}", socket.display(), folder.path().display());
    let script = command[2].replace("$$", "$").replace("--dir /data", &here);
    let env = [("REDISCLI_AUTH", "a secret")];
    let mut server =
        Command::new("sh").args(["-c", &script]).envs(env).stdout(std::process::Stdio::null()).spawn().unwrap();
    let ask = |password: Option<&str>| {
        let mut cli = Command::new("redis-cli");
        cli.args(["-s", &socket.display().to_string(), "ping"]).env_remove("REDISCLI_AUTH");
        let output = cli.envs(password.map(|password| ("REDISCLI_AUTH", password))).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let answers = durable_testing::eventually(std::time::Duration::from_secs(10), || match ask(Some("a secret")) {
        pong if pong.contains("PONG") => Ok(()),
        other => Err(other),
    });
    let without = ask(None);
    server.kill().unwrap();
    server.wait().unwrap();
    answers.unwrap_or_else(|last| panic!("{last}"));
    assert!(without.contains("NOAUTH"), "{without}");
}

#[test]
fn the_image_is_small_and_not_root() {
    let dockerfile = std::fs::read_to_string(root().join("Dockerfile")).unwrap();
    let stages: Vec<&str> = dockerfile.lines().filter(|line| line.starts_with("FROM ")).collect();
    assert_eq!(stages.len(), 2, "{stages:?}");
    let version: f64 = stages[0].split("rust:").nth(1).unwrap().split('-').next().unwrap().parse().unwrap();
    assert!(version >= 1.96, "{version}");
    assert!(stages[1].contains("slim"));
    let after = dockerfile.split("FROM").last().unwrap();
    assert!(after.contains("USER durable") && after.contains("python3"));
}
