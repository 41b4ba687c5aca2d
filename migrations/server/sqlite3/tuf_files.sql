create table tuf_files (
    id         integer primary key,
    created_at timestamp,
    updated_at timestamp,
    deleted_at timestamp,
    gun        varchar(255) not null check (length(gun) <= 255),
    role       varchar(255) not null check (length(role) <= 255),
    version    integer not null,
    data       blob not null,
    sha256     char(64),
    unique (gun, role, version)
);
create index tuf_files_sha256_idx on tuf_files (sha256);
