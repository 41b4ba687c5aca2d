create table private_keys (
    id               integer primary key,
    created_at       timestamp,
    updated_at       timestamp,
    deleted_at       timestamp,
    key_id           varchar(255) not null check (length(key_id) <= 255),
    encryption_alg   varchar(255) not null check (length(encryption_alg) <= 255),
    keywrap_alg      varchar(255) not null check (length(keywrap_alg) <= 255),
    algorithm        varchar(50) not null check (length(algorithm) <= 50),
    passphrase_alias varchar(50) not null check (length(passphrase_alias) <= 50),
    public           blob not null,
    private          blob not null,
    gun              varchar(255) not null check (length(gun) <= 255),
    role             varchar(255) not null check (length(role) <= 255),
    last_used        timestamp,
    constraint key_id unique (key_id),
    constraint key_id_2 unique (key_id, algorithm)
);
