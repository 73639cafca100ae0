pub mod baseline;
mod sql;
