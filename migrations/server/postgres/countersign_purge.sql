create table countersign_purge (
    id      bigserial primary key,
    gun     varchar(255) not null,
    at      timestamp not null,
    ended   timestamp,
    archive text not null,
    digest  char(64) not null,
    actor   varchar(300) not null,
    reason  text not null,
    -- separated by blanks: the signer's rows that have to go
    key_ids text not null
);
