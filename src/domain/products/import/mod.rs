//! `shoal import products FILE.csv`: all of it or nothing, and every mistake at once.

mod queries;

use std::{collections::HashSet, io::Read};

use anyhow::Context;
use serde::Deserialize;
use uuid::Uuid;

use super::{
    cached,
    model::{CreateProduct, Currency, Description, ProductName, Sku, UnitAmount, Units},
    stock::Availability,
};
use crate::platform::{
    cache::Cache,
    db::{Db, Tx},
};

/// Rows sent to the database at once: few round trips, and arrays of a bounded size.
const BATCH: usize = 1_000;

/// Mistakes shown before the list is cut: a wrong separator makes every line wrong.
const SHOWN_MISTAKES: usize = 20;

/// One line, as text: so that all that is wrong with it can be told.
#[derive(Deserialize)]
struct Line {
    sku: String,
    name: String,
    description: String,
    unit_amount: i64,
    currency: String,
    stock: i64,
}

/// Reads products from CSV with the columns `sku,name,description,unit_amount,currency,stock`.
/// A product whose SKU exists is updated; its stock, which orders have changed since, stays.
/// Returns the ids.
///
/// # Errors
/// What is wrong, line by line; nothing was imported.
pub async fn import(
    db: &Db,
    products_cache: &Cache,
    catalogue_cache: &Cache,
    csv: impl Read,
) -> anyhow::Result<Vec<Uuid>> {
    let products = parse(csv)?;
    let mut tx = db.begin().await.context("cannot reach the database")?;
    // Orders may change their availability meanwhile: without an order of locks for both, each
    // might wait for the other.
    let skus: Vec<&str> = products.iter().map(|product| product.sku.as_str()).collect();
    queries::lock_by_sku(&mut tx, &skus).await.context("nothing was imported")?;
    let mut ids = Vec::with_capacity(products.len());
    for batch in products.chunks(BATCH) {
        let done = upsert(&mut tx, batch).await.context("nothing was imported")?;
        if done.len() < batch.len() {
            let is_done =
                |product: &&CreateProduct| done.iter().any(|(_, sku)| sku == product.sku.as_str());
            let refused = batch.iter().filter(|product| !is_done(product));
            let refused: Vec<_> = refused.map(|product| product.sku.as_str()).collect();
            anyhow::bail!(
                "nothing was imported: the currency of a product cannot change ({})",
                refused.join(", ")
            );
        }
        ids.extend(done.into_iter().map(|(id, _)| id));
    }
    cached::evict(&mut tx, products_cache, catalogue_cache, ids.iter().copied());
    tx.commit().await.context("nothing was imported")?;
    Ok(ids)
}

async fn upsert(
    tx: &mut Tx,
    products: &[CreateProduct],
) -> Result<Vec<(Uuid, String)>, sqlx::Error> {
    let mut columns = queries::Columns::default();
    for product in products {
        columns.ids.push(Uuid::now_v7());
        columns.skus.push(product.sku.as_str().to_owned());
        columns.names.push(product.name.as_str().to_owned());
        columns.descriptions.push(product.description.as_str().to_owned());
        columns.unit_amounts.push(product.unit_amount.get());
        columns.currencies.push(product.currency.as_str().to_owned());
        columns.stocks.push(product.stock.get());
        columns.availabilities.push(Availability::of(product.stock.get()));
    }
    queries::upsert(tx, &columns).await
}

fn parse(csv: impl Read) -> anyhow::Result<Vec<CreateProduct>> {
    let mut products = Vec::new();
    let mut mistakes = Vec::new();
    let mut skus = HashSet::new();
    let mut reader = csv::Reader::from_reader(csv);
    for (index, line) in reader.deserialize::<Line>().enumerate() {
        // Line 1 is the header.
        let number = index + 2;
        match line.map_err(|error| error.to_string()).and_then(read_line) {
            Ok(product) if !skus.insert(product.sku.clone()) => {
                mistakes.push(format!("line {number}: sku {} repeats", product.sku.as_str()));
            }
            Ok(product) => products.push(product),
            Err(mistake) => mistakes.push(format!("line {number}: {mistake}")),
        }
    }
    if mistakes.is_empty() {
        return Ok(products);
    }
    let count = mistakes.len();
    mistakes.truncate(SHOWN_MISTAKES);
    anyhow::bail!(
        "{count} line(s) cannot be imported, so nothing was:\n  {}{}",
        mistakes.join("\n  "),
        if count > SHOWN_MISTAKES { "\n  ..." } else { "" }
    )
}

fn read_line(line: Line) -> Result<CreateProduct, String> {
    fn field<T, V>(name: &str, value: V) -> Result<T, String>
    where
        T: TryFrom<V>,
        T::Error: std::fmt::Display,
    {
        T::try_from(value).map_err(|why| format!("{name} {why}"))
    }
    if line.stock < 0 {
        return Err("stock must not be negative".to_owned());
    }
    Ok(CreateProduct {
        sku: field::<Sku, _>("sku", line.sku)?,
        name: field::<ProductName, _>("name", line.name)?,
        description: field::<Description, _>("description", line.description)?,
        unit_amount: field::<UnitAmount, _>("unit_amount", line.unit_amount)?,
        currency: field::<Currency, _>("currency", line.currency)?,
        stock: field::<Units, _>("stock", line.stock)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_every_mistake_with_its_line() {
        let csv = "sku,name,description,unit_amount,currency,stock\n\
                   A1,Hook,A hook,100,EUR,5\n\
                   A2,,No name,100,EUR,5\n\
                   A1,Hook,Again,100,EUR,5\n\
                   A3,Line,Dear,100,euro,5\n\
                   A4,Line,Text,abc,EUR,5\n";
        let error = parse(csv.as_bytes()).err().unwrap().to_string();
        for part in ["4 line(s)", "line 3: name", "line 4: sku A1", "line 5: currency", "line 6:"] {
            assert!(error.contains(part), "{part} is missing in {error}");
        }
        let good = "sku,name,description,unit_amount,currency,stock\nA1,Hook,A hook,100,EUR,5\n";
        assert_eq!(parse(good.as_bytes()).unwrap().len(), 1);
    }
}
