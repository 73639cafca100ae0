//! The numbers in the form of the files that are shipped: `k8s/overlays`, `pgbouncer/pgbouncer.ini`,
//! `postgres/postgresql.conf`.

use super::numbers::Numbers;

/// A component for an overlay's `components`. Its patches go by place, and check what is there.
pub(super) fn kustomization(numbers: &Numbers) -> String {
    let Numbers { wanted, pool, most_clients, server_pool, target, .. } = numbers;
    let (fewest, most) = (numbers.fewest_replicas, numbers.most_replicas);
    let (workers, most_workers) = (numbers.workers, numbers.most_workers);
    format!(
        "\
# {}
apiVersion: kustomize.config.k8s.io/v1alpha1
kind: Component

configMapGenerator:
  - name: shoal
    behavior: merge
    literals:
      - SHOAL_DB_POOL_SIZE={pool}
  - name: pgbouncer-limits
    behavior: merge
    literals:
      - MAX_CLIENT_CONN={most_clients}
      - DEFAULT_POOL_SIZE={server_pool}

patches:
  - target: {{ kind: HorizontalPodAutoscaler, name: shoal-api }}
    patch: |
      - {{ op: replace, path: /spec/minReplicas, value: {fewest} }}
      - {{ op: replace, path: /spec/maxReplicas, value: {most} }}
      - {{ op: test, path: /spec/metrics/2/pods/metric/name, value: http_requests_per_second }}
      - {{ op: replace, path: /spec/metrics/2/pods/target/averageValue, value: \"{target}\" }}
  - target: {{ kind: HorizontalPodAutoscaler, name: shoal-worker }}
    patch: |
      - {{ op: replace, path: /spec/minReplicas, value: {workers} }}
      - {{ op: replace, path: /spec/maxReplicas, value: {most_workers} }}
",
        asked(wanted.per_second, wanted.p99_ms)
    )
}

/// What differs in each PgBouncer.
pub(super) fn pgbouncer(numbers: &Numbers) -> String {
    let Numbers { wanted, most_clients, server_pool, .. } = numbers;
    let asked = asked(wanted.per_second, wanted.p99_ms);
    format!(
        "; {asked}\n[pgbouncer]\nmax_client_conn = {most_clients}\ndefault_pool_size = {server_pool}\n"
    )
}

/// What differs in each Postgres.
pub(super) fn postgres(numbers: &Numbers) -> String {
    let Numbers { wanted, max_connections, .. } = numbers;
    let asked = asked(wanted.per_second, wanted.p99_ms);
    format!("# {asked}\nmax_connections = {max_connections}\n")
}

/// Where the numbers come from.
fn asked(per_second: f64, p99_ms: f64) -> String {
    format!(
        "By `shoal plan --rps {per_second:.0} --p99 {p99_ms:.0}`, whose table says how each number came about."
    )
}
