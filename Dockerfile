# The service as an image: `docker build -t shoal .`
# Its bill of materials, as CycloneDX: `docker build --target sbom --output . .`

FROM rust:1.95.0-slim-trixie AS toolchain
WORKDIR /src
ENV CARGO_TERM_COLOR=never SQLX_OFFLINE=true

# Everything that is not ours, in a layer of its own: it is compiled again only when a manifest changes.
FROM toolchain AS dependencies
COPY Cargo.toml Cargo.lock ./
COPY lab/Cargo.toml lab/
# Cargo wants the targets that the manifests name to exist.
RUN mkdir -p src lab/src tests/it \
    && echo 'fn main() {}' | tee src/main.rs tests/it/main.rs lab/src/main.rs > /dev/null \
    && touch src/lib.rs lab/src/lib.rs \
    && cargo build --release --locked --package shoal --bin shoal

FROM dependencies AS build
COPY .sqlx .sqlx
COPY migrations migrations
COPY src src
# A checkout may be older than the empty files above, and cargo goes by the time.
RUN touch src/lib.rs src/main.rs \
    && cargo build --release --locked --package shoal --bin shoal

# What the program needs beside itself: the C library, and whom to trust. Without its symbols it is a sixth smaller; a
# panic still tells its place.
FROM build AS root
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates \
    && install -D -m 0755 --strip target/release/shoal /root-of-image/shoal \
    && ldd target/release/shoal | grep -o '/[^ ]*' \
        | xargs -I LIBRARY install -D -m 0755 LIBRARY /root-of-imageLIBRARY \
    && install -D -m 0644 /etc/ssl/certs/ca-certificates.crt /root-of-image/etc/ssl/certs/ca-certificates.crt \
    && echo 'shoal:x:10001:10001::/:/nologin' > /root-of-image/etc/passwd \
    && echo 'hosts: files dns' > /root-of-image/etc/nsswitch.conf

# Built only when asked for.
FROM toolchain AS inventory
RUN cargo install --locked --version 0.5.9 cargo-cyclonedx
COPY Cargo.toml Cargo.lock ./
COPY lab/Cargo.toml lab/
RUN mkdir -p src lab/src tests/it \
    && touch src/lib.rs src/main.rs lab/src/lib.rs lab/src/main.rs tests/it/main.rs \
    && cargo cyclonedx --manifest-path Cargo.toml --format json

FROM scratch AS sbom
COPY --from=inventory /src/shoal.cdx.json /

# No shell, no package manager, nothing to write to.
FROM scratch
ARG VERSION=0.1.0
ARG REVISION=unknown
ARG CREATED=1970-01-01T00:00:00Z
LABEL org.opencontainers.image.title="shoal" \
    org.opencontainers.image.description="A horizontally scalable, stateless HTTP API" \
    org.opencontainers.image.licenses="MIT OR Apache-2.0" \
    org.opencontainers.image.version="${VERSION}" \
    org.opencontainers.image.revision="${REVISION}" \
    org.opencontainers.image.created="${CREATED}"
COPY --from=root /root-of-image/ /
USER 10001:10001
EXPOSE 3000
# Of the process alone. Whether it should get requests is /health/ready, for the balancer.
HEALTHCHECK --interval=10s --timeout=4s --start-period=30s --retries=3 \
    CMD ["/shoal", "healthcheck", "http://127.0.0.1:3000/health/live"]
ENTRYPOINT ["/shoal"]
CMD ["serve"]
