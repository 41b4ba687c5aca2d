create table tuf_files (
    id         serial primary key,
    created_at timestamp,
    updated_at timestamp,
    deleted_at timestamp,
    gun        varchar(255) not null,
    role       varchar(255) not null,
    version    integer not null,
    data       bytea not null,
    sha256     char(64) default null,
    unique (gun, role, version)
);
create index tuf_files_sha256_idx on tuf_files (sha256);
