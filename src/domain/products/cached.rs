//! What the caches hold of products: a product by id, and the pages of the catalogue.

use std::fmt;

use uuid::Uuid;

use super::{
    model::{Product, ProductResponse, Sort},
    queries::{self, Position},
};
use crate::{
    platform::{
        cache::{self, Cache, Entry, Found, key_of},
        db::{self, Consistency, Tx},
        http::{etag, pagination::Page},
    },
    state::AppState,
};

/// Which page of the catalogue.
#[derive(Debug, Clone)]
pub(super) struct Question {
    pub(super) words: String,
    pub(super) sort: Sort,
    pub(super) from: Position,
    pub(super) limit: i64,
}

impl fmt::Display for Question {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { words, sort, from, limit } = self;
        write!(formatter, "{sort:?}:{limit}:{}:{}:{words}", from.amount, from.id)
    }
}

/// The product's JSON; the meta is its entity tag.
pub(super) async fn product(
    app: &AppState,
    consistency: Consistency,
    id: Uuid,
) -> Result<Found, cache::Error> {
    let loading = app.clone();
    let load = move |consistency| load_product(loading.clone(), consistency, id);
    app.product_cache.get(id.as_u128(), consistency, load).await
}

/// The page's JSON; the meta is the cursor of the next one, or empty.
pub(super) async fn page(
    app: &AppState,
    consistency: Consistency,
    question: Question,
) -> Result<Found, cache::Error> {
    let (loading, key) = (app.clone(), key_of(&question));
    let load = move |consistency| load_page(loading.clone(), consistency, question.clone());
    app.catalogue_cache.get(key, consistency, load).await
}

/// Makes sure that nobody is served these products, or a list with them, as they were before the
/// transaction.
pub(super) fn evict(
    tx: &mut Tx,
    products: &Cache,
    catalogue: &Cache,
    ids: impl IntoIterator<Item = Uuid>,
) {
    let mut ids = ids.into_iter().peekable();
    if ids.peek().is_some() {
        tx.evict(catalogue.eviction_of_all());
    }
    for id in ids {
        tx.evict(products.eviction(id.as_u128()));
    }
}

async fn load_product(
    app: AppState,
    consistency: Consistency,
    id: Uuid,
) -> Result<Option<Entry>, db::Error> {
    let mut conn = app.db.read(&consistency).await?;
    let product = queries::find(&mut conn, id).await?;
    let entry = |product: Product| {
        Entry::new(etag::of_version(product.version), &ProductResponse::from(product))
    };
    product.map(entry).transpose()
}

async fn load_page(
    app: AppState,
    consistency: Consistency,
    question: Question,
) -> Result<Option<Entry>, db::Error> {
    let Question { words, sort, from, limit } = question;
    let mut conn = app.db.read(&consistency).await?;
    // One row more than the page holds tells whether there is another page.
    let rows = if words.is_empty() {
        queries::list_page(&mut conn, sort, from, limit + 1).await?
    } else {
        queries::search_page(&mut conn, &words, sort, from, limit + 1).await?
    };
    drop(conn);
    let position = |last: &Product| (sort, sort.amount_of(last), last.id);
    let page = Page::<ProductResponse>::new(rows, limit, position);
    let cursor = page.next_cursor.clone().unwrap_or_default();
    Entry::new(cursor, &page).map(Some)
}
