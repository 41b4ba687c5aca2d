create table private_keys (
    id               serial primary key,
    created_at       timestamp,
    updated_at       timestamp,
    deleted_at       timestamp,
    key_id           varchar(255) not null,
    encryption_alg   varchar(255) not null,
    keywrap_alg      varchar(255) not null,
    algorithm        varchar(50) not null,
    passphrase_alias varchar(50) not null,
    public           bytea not null,
    private          bytea not null,
    gun              varchar(255) not null,
    role             varchar(255) not null,
    last_used        timestamp,
    constraint key_id unique (key_id),
    constraint key_id_2 unique (key_id, algorithm)
);
