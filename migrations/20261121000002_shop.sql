-- The shop: users, products with their stock, orders.

create table users (
    id uuid primary key,
    -- Lower case, as the application parses it.
    email text not null,
    name text not null,
    role text not null default 'customer',
    password_hash text not null,
    avatar_url text,
    version int not null default 1,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    constraint users_email_key unique (email),
    constraint users_email_is_lower_case check (email = lower(email)),
    constraint users_role_is_known check (role in ('customer', 'admin'))
);

create table products (
    id uuid primary key,
    sku text not null,
    name text not null,
    description text not null,
    -- In the currency's minor unit (cents, pence).
    unit_amount bigint not null,
    currency text not null,
    -- A coarse copy of the stock, changed only when a threshold is crossed: a sale must not
    -- touch the row, its ETag or its cache entry otherwise.
    availability text not null,
    image_url text,
    version int not null default 1,
    archived_at timestamptz,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    -- 'simple' does not stem: product names mix languages.
    search tsvector not null generated always as (
        to_tsvector('simple', sku || ' ' || name || ' ' || description)
    ) stored,
    constraint products_sku_key unique (sku),
    constraint products_unit_amount_is_not_negative check (unit_amount >= 0),
    constraint products_currency_is_iso_4217 check (currency ~ '^[A-Z]{3}$'),
    constraint products_availability_is_known
        check (availability in ('in_stock', 'low', 'out_of_stock'))
);
-- One index per order that the catalogue offers; an id sorts by creation.
create index products_catalogue_id_idx on products (id) where archived_at is null;
create index products_catalogue_unit_amount_id_idx on products (unit_amount, id)
    where archived_at is null;
create index products_catalogue_search_idx on products using gin (search)
    where archived_at is null;

-- Apart from the catalogue, since it changes with every order and the catalogue does not. Narrow
-- and half full, so that updates stay on their page (HOT) and need no index maintenance.
create table inventory (
    product_id uuid primary key references products (id),
    on_hand bigint not null,
    constraint inventory_on_hand_is_not_negative check (on_hand >= 0)
) with (fillfactor = 50);

create table orders (
    id uuid primary key,
    customer_id uuid not null,
    status text not null,
    total_amount bigint not null,
    currency text not null,
    -- Counts the order's events, too: event `sequence` n made version n.
    version int not null default 1,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    constraint orders_status_is_known check (status in
        ('pending', 'paid', 'shipped', 'completed', 'cancelled', 'payment_failed')),
    constraint orders_total_amount_is_not_negative check (total_amount >= 0)
) partition by range (id);
create table orders_default partition of orders default;
select create_month_partitions('orders', 3);
create index orders_customer_id_id_idx on orders (customer_id, id desc);
create index orders_customer_id_status_id_idx on orders (customer_id, status, id desc);
create index orders_status_id_idx on orders (status, id desc);

-- No foreign key to `orders`: both are written by one statement, and a month of both must be
-- detachable at once. Name and price are copied: an order is a document, not a view.
create table order_items (
    order_id uuid not null,
    line smallint not null,
    customer_id uuid not null,
    product_id uuid not null,
    name text not null,
    quantity int not null,
    unit_amount bigint not null,
    primary key (order_id, line),
    constraint order_items_quantity_is_positive check (quantity > 0)
) partition by range (order_id);
create table order_items_default partition of order_items default;
select create_month_partitions('order_items', 3);
