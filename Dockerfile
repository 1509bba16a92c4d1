# One small static image of the operator, the agent (which is also the coordinator) and the command line: no shell, no
# library, no root. `make image` puts the same programs, user and entrypoint together without Docker; a
# test holds the two together.

FROM rust:1.95-slim-bookworm AS build
RUN apt-get update \
 && apt-get install --yes --no-install-recommends musl-tools \
 && rm -rf /var/lib/apt/lists/*
# The C sources of two dependencies are compiled for musl, too.
ENV CC_x86_64_unknown_linux_musl=musl-gcc \
    CC_aarch64_unknown_linux_musl=musl-gcc
WORKDIR /source
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/source/target \
    target="$(uname -m)-unknown-linux-musl" \
 && rustup target add "$target" \
 && cargo build --locked --profile image --target "$target" \
      --package robeing-operator --package robeing-agent --package robeing \
      --bin robeing-operator --bin robeing-agent --bin robeing \
 && mkdir -p /image /data /join \
 && cp "target/$target/image/robeing-operator" "target/$target/image/robeing-agent" "target/$target/image/robeing" /image/

FROM scratch
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="robeing" \
      org.opencontainers.image.description="A fleet of agents that does not lose work: operator, agent and command line" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.source="https://github.com/robeing/robeing" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION"
COPY --from=build /image/ /
# A volume that is mounted at one of these takes over its owner.
COPY --from=build --chown=65532:65532 /data/ /var/lib/robeing/
COPY --from=build --chown=65532:65532 /join/ /var/run/robeing/join/
USER 65532:65532
# What AGENT_ROLE says: a coordinator or an agent. The chart starts /robeing-operator; `docker exec … /robeing tasks` asks.
ENTRYPOINT ["/robeing-agent"]
