# What the other scripts share. Sourced, not run.

need() {
    command -v "$1" >/dev/null 2>&1 && return
    echo "error: $1 is missing: $2" >&2
    exit 2
}

# Monty declares Rust 1.96 and builds on 1.95 when it is told to; newer toolchains ignore the flag.
CARGO_FLAGS=(--locked --ignore-rust-version --workspace)

build() {
    need cargo "install Rust 1.95 or later (https://rustup.rs)"
    need cc "install a C compiler (apt-get install gcc)"
    (cd "$here" && cargo build "${CARGO_FLAGS[@]}" --bins)
}

# Installs Debian packages.
install() {
    need apt-get "install $* by your system's package manager"
    local as_root=()
    [ "$(id -u)" = 0 ] || as_root=(sudo)
    echo "installing $*" >&2
    "${as_root[@]}" apt-get update -qq
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}

# Private servers are started from these; the packages' services are not needed.
install_servers() {
    local missing=()
    [ -n "$(ls -d /usr/lib/postgresql/*/bin/initdb 2>/dev/null)" ] || command -v initdb >/dev/null || missing+=(postgresql)
    command -v redis-server >/dev/null || missing+=(redis-server)
    command -v cc >/dev/null || missing+=(gcc libc6-dev)
    [ ${#missing[@]} -eq 0 ] || install "${missing[@]}"
}

install_compose() {
    command -v docker-compose >/dev/null || install docker-compose
}

# Two versions of stock RQ, for the tests that share queues with it.
install_rq() {
    local version
    for version in 2.12.0 3.0.0; do
        local venv="$here/target/rq/$version"
        [ -x "$venv/bin/rq" ] && continue
        python3 -m venv "$venv" 2>/dev/null || { install python3-venv; python3 -m venv "$venv"; }
        "$venv/bin/pip" install --quiet --disable-pip-version-check "rq==$version"
    done
}

# A Python with what functions use and this project does not, in target/types.
install_types() {
    local venv="$here/target/types"
    [ -x "$venv/bin/python" ] && "$venv/bin/python" -c "import numpy, pydantic" 2>/dev/null && return
    python3 -m venv "$venv" 2>/dev/null || { install python3-venv; python3 -m venv "$venv"; }
    "$venv/bin/pip" install --quiet --disable-pip-version-check numpy pydantic
}
