# One image for all programs. Build: docker compose build
FROM rust:1.96-slim-bookworm AS build
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev make perl && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/src/target \
    cargo build --release --locked --ignore-rust-version -p durable-cli -p durable-worker -p durable-orchestrator \
    && mkdir /out \
    && cp target/release/durable target/release/durable-start target/release/durable-worker \
          target/release/durable-orchestrator /out/

FROM debian:bookworm-slim
RUN apt-get update \
    && apt-get install -y --no-install-recommends python3 ca-certificates curl \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 10001 durable \
    && mkdir /work && chown durable /work
COPY --from=build /out/ /usr/local/bin/
COPY examples /examples
USER durable
WORKDIR /home/durable
# What runs is named by the service; without a name, this says what there is.
CMD ["durable", "--help"]
