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
