-- no-transaction
-- Finds the failed among thirty days of deliveries. By `error` rather than by `state`: a delivery that
-- succeeds at once never has one, so its update still touches no index.
create index concurrently if not exists webhook_deliveries_failed_idx
    on webhook_deliveries (endpoint_id, event_id) where error is not null;
