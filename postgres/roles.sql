-- Roles and the database; may be run again at any time. Run by a superuser, with psql 15 or newer:
--
--   SHOAL_DATABASE=shoal SHOAL_MIGRATOR_PASSWORD=... SHOAL_APP_PASSWORD=... \
--   SHOAL_REPLICATION_PASSWORD=... psql -v ON_ERROR_STOP=1 -f roles.sql
--
-- Passwords come from the environment: arguments are visible to every user of the machine.
-- Rights on tables are granted where the tables are made, in migrations/.

\getenv database SHOAL_DATABASE
\getenv migrator_password SHOAL_MIGRATOR_PASSWORD
\getenv app_password SHOAL_APP_PASSWORD
\getenv replication_password SHOAL_REPLICATION_PASSWORD

select 'create role shoal_migrator' where not exists (select from pg_roles where rolname = 'shoal_migrator') \gexec
select 'create role shoal_app' where not exists (select from pg_roles where rolname = 'shoal_app') \gexec
select 'create role shoal_replication' where not exists (select from pg_roles where rolname = 'shoal_replication') \gexec

-- Owns the database and everything in it; used by `shoal migrate` only.
alter role shoal_migrator login password :'migrator_password';

-- The API and its workers: reads and writes rows, changes no schema.
alter role shoal_app login password :'app_password';
-- Within the API's request deadline of 5 s. SET does not survive transaction pooling, defaults of the role do.
alter role shoal_app set statement_timeout = '3s';
-- Waiting longer for a lock than this means that something holds it which should not.
alter role shoal_app set lock_timeout = '1s';
-- A replica that freezes inside a transaction blocks the others no longer than this.
alter role shoal_app set idle_in_transaction_session_timeout = '5s';
-- To see which timeline a replica follows: one that a failover left behind must not be read from. Without it
-- the API finds out as well, but leaves a good replica out until its next restart point.
grant pg_read_all_stats to shoal_app;

alter role shoal_replication login replication password :'replication_password';

select format('create database %I owner shoal_migrator', :'database')
where not exists (select from pg_database where datname = :'database') \gexec

\connect :"database"
revoke create on schema public from public;
