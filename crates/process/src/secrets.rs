//! Secrets on command lines, which everybody on the machine can read.

/// A warning for each secret among a program's arguments; the secrets are not repeated.
pub(crate) fn warnings(arguments: impl Iterator<Item = String>) -> Vec<String> {
    let mut warnings = Vec::new();
    let mut option = String::new();
    // What follows is the business of another program.
    for argument in arguments.skip(1).take_while(|argument| argument != "--") {
        let (name, value) = match argument.split_once('=') {
            Some((name, value)) if name.starts_with("--") => (name.to_owned(), value),
            _ => (std::mem::take(&mut option), argument.as_str()),
        };
        let variable = match name.as_str() {
            "--token" if !value.is_empty() => "DURABLE_API_TOKEN",
            "--database-url" | "--db" if has_password(value) => "DURABLE_DATABASE_URL",
            "--redis-url" if has_password(value) => "DURABLE_REDIS_URL",
            _ => "",
        };
        if !variable.is_empty() {
            warnings.push(format!(
                "warning: the secret in {name} can be read by everybody on this machine, in the list of processes: set \
                 {variable} instead"
            ));
        }
        if argument.starts_with("--") && !argument.contains('=') {
            option = argument;
        }
    }
    warnings
}

fn has_password(url: &str) -> bool {
    let login = url.rsplit_once('@').map_or("", |(login, _)| login);
    let login = login.split_once("//").map_or(login, |(_, login)| login);
    let in_login = login.split_once(':').is_some_and(|(_, password)| !password.is_empty());
    in_login
        || url.split(['?', '&', ' ']).any(|part| part.strip_prefix("password=").is_some_and(|value| !value.is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn warned(line: &str) -> Vec<String> {
        warnings(line.split(' ').map(str::to_owned))
    }

    #[test]
    fn a_secret_on_the_command_line_is_warned_of_and_not_repeated() {
        for line in [
            "durable-orchestrator --token s3cret",
            "durable list --token=s3cret",
            "durable-worker --database-url postgres://me:s3cret@h/d",
            "durable list --db=postgres://h/d?user=me&password=s3cret",
            "durable-worker --redis-url rediss://:s3cret@h",
        ] {
            let warned = warned(line);
            assert_eq!(warned.len(), 1, "{line}");
            assert!(warned[0].contains("set DURABLE_") && !warned[0].contains("s3cret"), "{}", warned[0]);
        }
        for line in [
            "durable-orchestrator --listen 127.0.0.1:80 --database-url postgres://me@h/d",
            "durable list --db ./x.db --server http://a",
            "durable complete token",
            "durable run x.py -- --token s3cret",
        ] {
            assert!(warned(line).is_empty(), "{line}");
        }
    }
}
