-- One payment per order: the primary key says so, and the provider is given it as its idempotency
-- key. Not partitioned: what was paid is looked up for longer than the order is kept.
create table payments (
    order_id uuid primary key,
    customer_id uuid not null,
    -- In the currency's minor unit.
    amount bigint not null,
    currency text not null,
    -- 'charging' until the provider has given its word, 'captured' or 'declined' after it. The
    -- money of an order that was cancelled is given back: 'voiding' until the provider has
    -- agreed, then 'voided'.
    status text not null default 'charging',
    -- What the provider calls it.
    charge_id text,
    -- Why it was declined.
    reason text,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    constraint payments_status_is_known check (status in
        ('charging', 'captured', 'declined', 'voiding', 'voided')),
    constraint payments_amount_is_not_negative check (amount >= 0)
);
