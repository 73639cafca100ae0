//! The statements that the baselines run: once written here, they are sent by `sqlx` from a bare handler and by
//! `pgbench` from a script, so both ask Postgres for the same.

/// An order of a customer with its lines, one row a line.
pub(super) const FIND_ORDER: &str = "\
    select o.status, o.total_amount, o.currency, o.created_at, o.updated_at, \
    i.product_id, i.name, i.quantity, i.unit_amount \
    from orders o join order_items i on i.order_id = o.id \
    where o.id = $1 and o.customer_id = $2 order by i.line";

/// What places an order of two lines in nine statements, as one would write it at first. They take the
/// order's id, the customer, both products, the quantity, the key's scope, the event's id, its data and the
/// answer that is kept; `begin` and `commit` go around them.
pub(super) const PLACE_ORDER: [&str; 7] = [
    "select body_hash, status, location, etag, body from idempotency_keys where scope = $scope",
    "select i.product_id, i.on_hand, p.name, p.unit_amount, p.currency \
     from inventory i join products p on p.id = i.product_id \
     where i.product_id in ($first, $second) and p.archived_at is null \
     order by i.product_id for no key update of i",
    "update inventory set on_hand = on_hand - $quantity \
     where product_id in ($first, $second) and on_hand >= $quantity",
    "insert into orders (id, customer_id, status, total_amount, currency) \
     values ($order, $customer, 'pending', 2 * 1999 * $quantity, 'EUR') \
     returning version, created_at, updated_at",
    "insert into order_items (order_id, line, customer_id, product_id, name, quantity, unit_amount) \
     values ($order, 1, $customer, $first, 'A product to measure with', $quantity, 1999), \
     ($order, 2, $customer, $second, 'A product to measure with', $quantity, 1999)",
    "with written as (\
     insert into events (id, type, subject_id, sequence, customer_id, data, request_id) \
     values ($event, 'order.created', $order, 1, $customer, $data::jsonb, 'bench') returning id) \
     insert into outbox (event_id) select id from written",
    "insert into idempotency_keys (scope, body_hash, status, location, etag, body) \
     values ($scope, $scope, 201, '/v1/orders/bench', null, convert_to($data, 'UTF8'))",
];

/// Replaces each `$name` of a statement, longest names first, so that none is taken for the beginning of
/// another.
pub(super) fn fill_in(statement: &str, values: &[(&str, &str)]) -> String {
    let mut values = values.to_vec();
    values.sort_by_key(|(name, _)| std::cmp::Reverse(name.len()));
    values
        .iter()
        .fold(statement.to_owned(), |text, (name, value)| text.replace(&format!("${name}"), value))
}

#[cfg(test)]
mod tests {
    use super::fill_in;

    #[test]
    fn a_name_is_not_taken_for_the_beginning_of_another() {
        assert_eq!(fill_in("$order $or", &[("or", "1"), ("order", "2")]), "2 1");
    }
}
