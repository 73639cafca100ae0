-- Reports: a read model of sales, fed by the events of orders.

-- What each event does to the sales: an order counts on the day it was placed, and is taken back
-- from that day should nobody get it. Sums of these rows are the same in whatever order the
-- events are passed on. The lines are those of the first event, which exists before any other.
create view sales_of_events as
select e.id as event_id, e.subject_id as order_id, e.sequence, e.created_at,
       (placed.created_at at time zone 'UTC')::date as day,
       placed.data ->> 'currency' as currency,
       case e.type when 'order.created' then 1 else -1 end as orders,
       placed.data -> 'items' as items
from events e
join events placed on placed.subject_id = e.subject_id and placed.sequence = 1
where e.type in ('order.created', 'order.cancelled', 'order.payment_failed');

-- Which of them are in the sums: each once, however often it is told of.
create table reported_events (
    order_id uuid not null,
    sequence int not null,
    primary key (order_id, sequence)
);

-- Half full, since the rows of today change with every batch of orders.
create table daily_sales (
    day date not null,
    currency text not null,
    orders bigint not null,
    units bigint not null,
    -- In the currency's minor unit.
    total_amount bigint not null,
    primary key (day, currency)
) with (fillfactor = 50);

-- The key begins with the product, which reports by product walk page by page.
create table daily_product_sales (
    product_id uuid not null,
    currency text not null,
    day date not null,
    orders bigint not null,
    units bigint not null,
    total_amount bigint not null,
    primary key (product_id, currency, day)
) with (fillfactor = 70);
create index daily_product_sales_day_idx on daily_product_sales (day);
