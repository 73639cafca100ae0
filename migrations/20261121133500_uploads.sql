-- Files that users upload. The row stands for all that S3 holds of a file, and goes last: first
-- what is there is deleted, then the row. No two rows share an object, so that deleting one can
-- never take what another needs.
create table uploads (
    id uuid primary key,
    owner_id uuid not null references users (id),
    purpose text not null,
    -- As announced, and held to since.
    content_type text not null,
    -- Bytes.
    size bigint not null,
    declared_sha256 bytea,
    -- 'pending' until the file has been verified: 'completed' if it is what it was announced as,
    -- else 'rejected', for this reason.
    state text not null default 'pending',
    -- A stable word, and what the owner is told.
    reason text,
    detail text,
    -- Of the bytes that were verified; the name of the object is made of it.
    sha256 bytea,
    -- Pixels, of images.
    width int,
    height int,
    -- Whether the smaller copies of an image are there.
    has_variants boolean not null default false,
    -- The user or product whose picture it is, and that one's version which made it so.
    subject_id uuid,
    subject_version int,
    -- Until when the file may be sent.
    expires_at timestamptz not null,
    -- Since when nobody needs it any longer: a terminal state.
    released_at timestamptz,
    created_at timestamptz not null default now(),
    completed_at timestamptz,
    constraint uploads_purpose_is_known
        check (purpose in ('avatar', 'product_image', 'document')),
    constraint uploads_state_is_known check (state in ('pending', 'completed', 'rejected')),
    constraint uploads_size_is_positive check (size > 0),
    constraint uploads_completed_is_verified check (state <> 'completed' or sha256 is not null),
    constraint uploads_rejected_has_reason check (
        state <> 'rejected' or (reason is not null and detail is not null)),
    constraint uploads_hash_is_sha256 check (length(sha256) = 32 and length(declared_sha256) = 32),
    constraint uploads_subject_has_version check ((subject_id is null) = (subject_version is null))
);
-- What counts towards somebody's quota.
create index uploads_owner_id_idx on uploads (owner_id) where released_at is null;
create index uploads_subject_id_idx on uploads (subject_id) where subject_id is not null;
-- What the sweep looks for.
create index uploads_expires_at_idx on uploads (expires_at) where state <> 'completed';
create index uploads_released_at_idx on uploads (released_at) where released_at is not null;
